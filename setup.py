"""What pyproject.toml cannot say: configs/ lies at the top of the repository, and inside the installed package."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["gan", "gan.*"]), "gan.configs"],
    package_dir={"gan.configs": "configs"},
    package_data={"gan": ["py.typed"], "gan.metrics.extractors": ["*.safetensors"], "gan.configs": ["**/*.yaml"]},
)
