"""Build script: maps the top-level folders into the `rediffinet` package and compiles the Cython extensions."""

import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
FOLDERS = {
    "rediffinet": "rediffinet",
    "export": "rediffinet.export",
    "engines": "rediffinet.engines",
    "cli": "rediffinet.cli",
    "ext": "rediffinet.ext",
}

NO_COMPILER = (
    "rediffinet: the Cython extensions could not be compiled.\n"
    "A source install needs a C compiler and the Python headers "
    "(Debian/Ubuntu: apt install gcc python3-dev; macOS: xcode-select --install; "
    "Windows: Microsoft C++ Build Tools). Install one and run the same pip command again, or use a wheel."
)


class BuildExtensions(build_ext):
    """Compile the extensions; say in one sentence what is missing when there is no compiler."""

    def run(self) -> None:
        """Build everything, or exit with `NO_COMPILER`."""
        try:
            super().run()
        except Exception as error:  # setuptools' compiler errors have no common base
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


def packages() -> list[str]:
    """Names of all packages, with their subpackages."""
    found = []
    for folder, name in FOLDERS.items():
        for init in sorted((ROOT / folder).rglob("__init__.py")):
            found.append(".".join([name, *init.parent.relative_to(ROOT / folder).parts]))
    return found


setup(
    packages=packages(),
    package_dir={name: folder for folder, name in FOLDERS.items()},
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildExtensions},
)
