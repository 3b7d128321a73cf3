"""What the operators share: the node, constants, and small readers of their arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Operator = Callable[..., Any]
Maker = Callable[["Node"], Operator]


class UnsupportedError(Exception):
    """The graph uses an operator, or a form of one, that is not implemented here."""


@dataclass(frozen=True)
class Node:
    """What of a node is known before the run."""

    kind: str
    attributes: Mapping[str, Any]
    n_outputs: int
    device: torch.device

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute's value; strings are decoded."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def only(self, **allowed: Any) -> None:
        """Raise `UnsupportedError` when an attribute is present with another value than the one allowed."""
        for name, value in allowed.items():
            found = self.get(name, value)
            if found != value:
                raise UnsupportedError(f"{self.kind} with {name} = {found}")


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """The torch dtype of a NumPy dtype; `UnsupportedError` if torch has none for it (bfloat16, float8, int4)."""
    try:
        return torch.from_numpy(np.empty(0, dtype)).dtype
    except TypeError as error:
        raise UnsupportedError(f"tensors of dtype {dtype}") from error


def placed(array: np.ndarray[Any, Any], device: torch.device) -> Tensor:
    """A constant: shapes, axes and indices (integers of rank 0 or 1) on the host, everything else on the device."""
    torch_dtype(array.dtype)
    value = torch.from_numpy(np.array(array, copy=True))
    return value if value.ndim <= 1 and not value.is_floating_point() else value.to(device)


def together(*tensors: Tensor) -> list[Tensor]:
    """The tensors on one device: the first one's that is not the host."""
    device = next((tensor.device for tensor in tensors if tensor.device.type != "cpu"), tensors[0].device)
    return [tensor.to(device) for tensor in tensors]


def integers(tensor: Tensor | None) -> list[int] | None:
    """The values of a shape, axes or pads tensor; None when it is absent."""
    return None if tensor is None else [int(value) for value in tensor.reshape(-1).tolist()]


def axes_of(node: Node, tensor: Tensor | None) -> list[int] | None:
    """Axes from the input of newer opsets, or the attribute of older ones."""
    return integers(tensor) if tensor is not None else node.get("axes")


def simple(function: Any) -> Maker:
    """The maker of an operator without attributes."""
    return lambda _: function
