"""Build script: maps the top-level folders into the `rediffinet` package and compiles the Cython extensions."""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError

ROOT = Path(__file__).parent
FOLDERS = {"export": "rediffinet.export", "engines": "rediffinet.engines", "cli": "rediffinet.cli", "ext": "rediffinet.ext"}

NO_COMPILER = (
    "rediffinet: the Cython extensions could not be compiled.\n"
    "A source install needs a C compiler and the Python headers "
    "(Debian/Ubuntu: apt install gcc python3-dev; macOS: xcode-select --install; "
    "Windows: Microsoft C++ Build Tools). Install one and run the same pip command again, or use a wheel."
)


class BuildExtensions(build_ext):
    """Compile the extensions; say in one sentence what is missing when there is no compiler."""

    def run(self) -> None:
        try:
            super().run()
        except (BaseError, OSError) as error:
            sys.exit(f"{NO_COMPILER}\nThe compiler step said: {error}")


def extensions() -> list[Extension]:
    """One extension per .pyx file under ext/."""
    import numpy
    from Cython.Build import cythonize

    windows = sys.platform == "win32"
    modules = [
        Extension(
            f"rediffinet.ext.{source.stem}",
            [source.relative_to(ROOT).as_posix()],
            include_dirs=[numpy.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
            extra_compile_args=["/O2"] if windows else ["-O3"],
        )
        for source in sorted((ROOT / "ext").glob("*.pyx"))
    ]
    return cythonize(modules, compiler_directives={"language_level": "3"})


def packages() -> tuple[list[str], dict[str, str]]:
    """Package names and their folders."""
    core = [".".join(p.parent.relative_to(ROOT).parts) for p in sorted((ROOT / "rediffinet").rglob("__init__.py"))]
    return core + list(FOLDERS.values()), {"rediffinet": "rediffinet", **{name: folder for folder, name in FOLDERS.items()}}


names, folders = packages()
setup(packages=names, package_dir=folders, ext_modules=extensions(), cmdclass={"build_ext": BuildExtensions})
