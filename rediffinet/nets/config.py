"""Sizes of the networks: typed, frozen, saved with every checkpoint and bundle."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Window = tuple[Positive, Positive, Positive]
Features = Annotated[tuple[Positive, ...], Field(min_length=2)]


class Frozen(BaseModel):
    """A configuration that rejects unknown keys and cannot be changed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class UNetConfig(Frozen):
    """Optimized U-Net (Futrega et al. 2021): strided down, transposed up, instance norm, leaky ReLU.

    features: channels per level. stem_stride 2 lets the first level work at half resolution, so that a whole head fits
    a window on a CPU; the logits are then interpolated to full resolution. network: another MONAI segmentation network
    in the baseline's place, by name (rediffinet.nets.monai_nets), with `options` for its constructor.
    soft_condition, residual: of a corrector, as in `RefinerConfig`.
    """

    features: Features = (16, 32, 64, 128)
    stem_stride: Literal[1, 2] = 1
    deep_supervision: bool = False
    window: Window = (128, 128, 128)
    network: str = "unet"
    options: dict[str, Any] = {}
    soft_condition: bool = True
    residual: Literal["segmentation", "discrepancy"] | None = None

    @property
    def divisor(self) -> int:
        """Every side of a window must be a multiple of this."""
        if self.network != "unet":
            return 32  # what the deepest of MONAI's networks need
        return int(self.stem_stride * 2 ** (len(self.features) - 1))


class RefinerConfig(Frozen):
    """Discrepancy denoiser and its conditioning encoder (paper §2.2).

    condition_channels: of what the network is conditioned on (rediffinet.method.models); features: channels per
    level of both encoders; head_features: channels of the full-resolution decoder output; time_features: width of
    the timestep embedding; train_steps: T; signal_scale: b, x0 is diffused as ±b. soft_condition: condition on the
    baseline's probabilities (2p − 1) instead of its mask. residual: the network predicts a correction to what the
    baseline says of the target, the segmentation p itself or the discrepancy min(p, 1 − p), instead of the target
    from nothing.
    """

    condition_channels: Positive = 7
    features: Features = (16, 32, 64, 128)
    head_features: Positive = 16
    time_features: Annotated[int, Field(ge=2)] = 64
    window: Window = (64, 64, 64)
    soft_condition: bool = True
    train_steps: Positive = 1000
    signal_scale: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    residual: Literal["segmentation", "discrepancy"] | None = None

    @property
    def divisor(self) -> int:
        """Every side of a window must be a multiple of this."""
        return int(2 ** (len(self.features) - 1))
