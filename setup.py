"""Packaging: what avjax is, what it needs and at which floors. Linting and test settings are in pyproject.toml."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

# `.ci/environment FOLDER EXTRAS floor` installs each of these at its floor: a floor here is one that is tested.
REQUIRED = [
    "jax>=0.10",  # the last series for Python 3.11
    "flax>=0.12.8",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",  # orbax.checkpoint.v1
    "grain>=0.2.18",
    "array-record>=0.8.3",
    "av>=18",  # ffmpeg comes in the wheel
    "soxr>=1.0",
    "numpy>=2.2",
    "scipy>=1.17",
    "jaxtyping>=0.3.9",
    "tyro>=1.0.13",
    "rich>=14.0",
    "etils[epath]>=1.13",
    "matplotlib>=3.10",
    "jinja2>=3.1",
    "tensorboardX>=2.6.4",
    "msgpack>=1.1",
    "PyYAML>=6.0.2",
]

DEMO = [
    "espeakng-loader>=0.2.4",  # GPL speech data, therefore outside the core
    "scikit-learn>=1.7",  # the handwritten digits
]

CORPORA = ["h5py>=3.13"]  # feature files

EXTRAS = {
    "demo": DEMO,
    "corpora": CORPORA,
    "faces": ["dlib-bin>=20.0.1"],  # a face detector whose model is in its wheel
    "tfds": ["tensorflow-datasets>=4.9.9", "importlib_resources>=6.5"],
    "gpu": ["triton>=3.4", "jax-triton>=0.3"],
    "tpu": ["jax[tpu]>=0.10"],
    "peers": ["torch>=2.6"],
    "dev": [
        *DEMO,
        *CORPORA,
        "beartype>=0.22",
        "build>=1.3",
        "chex>=0.1.91",
        "hypothesis>=6.150",
        "kaldi-native-fbank>=1.22",
        "pytest>=9.0",
        "pytest-xdist>=3.8",
        "ruff>=0.17",
    ],
}

HERE = Path(__file__).parent
README = HERE / "README.md"
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "avjax" / "__init__.py").read_text(encoding="utf-8"))[1]

setup(
    name="avjax",
    version=VERSION,
    description="Audio-visual fusion with attention, in JAX and Flax",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    author="The avjax authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    install_requires=REQUIRED,
    extras_require=EXTRAS,
    packages=find_packages(include=["avjax", "avjax.*", "kernels", "kernels.*"]),
    package_data={"avjax": ["**/*.j2", "**/*.json"], "kernels": ["**/*.json"]},
    entry_points={"console_scripts": ["avjax = avjax.cli:main"]},
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
