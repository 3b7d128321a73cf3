"""What a command need not import."""

import sys


def import_nibabel_alone() -> None:
    """Import NiBabel as if pydicom were not installed.

    It would import pydicom, and requests with it, for an extension of NIfTI headers that nothing here reads: half a
    second. Such extensions are then kept as the bytes that they are. pydicom can be imported as ever afterwards. For a
    process of our own alone: a program that embeds the library may want what NiBabel does with both.
    """
    if "nibabel" in sys.modules or "pydicom" in sys.modules:
        return
    sys.modules["pydicom"] = None  # type: ignore[assignment]  # the import system's own mark of what is not there
    try:
        import nibabel  # noqa: F401
    finally:
        del sys.modules["pydicom"]


def leave_out_converters() -> None:
    """Have OpenVINO imported without its model converter, which nothing here calls: an eighth of a second.

    For a process of our own alone, as above.
    """
    sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]
