# SPDX-License-Identifier: Apache-2.0
"""The package and its extras. Exact versions of a tested environment are in requirements/."""

from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    "demo": ["transformers>=4.57", "tokenizers", "scikit-learn>=1.5", "matplotlib>=3.9"],
    "hf": ["transformers>=4.57"],  # owl.hf, owl.chat; accelerate for device_map, peft for LoRA
    "web": ["transformers>=4.57", "gradio>=6"],
    "video": ["av>=14"],
    "svg": ["resvg-py>=0.5"],  # drawings of pages that are converted
    "speed": ["isal"],  # checksums of what is read, 12 times as fast as zlib's
    "remote": ["fsspec", "s3fs", "gcsfs", "aiohttp"],  # shards behind s3://, gs://, https://
    "data": ["pyarrow>=16"],  # from 14.0.1 on it does not unpickle data from files
    "logging": ["tensorboard>=2.18", "wandb>=0.19"],
    "dev": [
        "pytest>=8",
        "pytest-timeout",
        "pytest-xdist",
        "hypothesis",
        "ruff",
        "mypy",
        "pre-commit",
        "webdataset",
    ],
    # Each compiles on your machine or needs a GPU. apex has no wheel: build NVIDIA's from source
    # (https://github.com/NVIDIA/apex, `APEX_CPP_EXT=1 APEX_CUDA_EXT=1 pip install .`); it is
    # never required.
    "gpu": ["transformer-engine[pytorch]", "flash-attn", "liger-kernel"],
}

setup(
    name="owl3-megatron",
    version="0.1.0",
    description="Train mPLUG-Owl3 on megatron-core: pack, train in stages, resume, convert",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    if Path(__file__).with_name("README.md").is_file()
    else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=[*find_packages(include=["owl", "owl.*"]), "owl._configs"],
    package_dir={"owl._configs": "configs"},  # owl/config/load.py finds them in both places
    package_data={
        "owl._configs": ["*.yaml", "*/*.yaml", "*/*/*.yaml"],
        "owl.curate.preview": ["*.css", "*.js", "*.j2"],
    },
    entry_points={"console_scripts": ["owl = owl.command.__main__:main"]},
    python_requires=">=3.11,<3.13",
    install_requires=[
        "torch>=2.11",
        "megatron-core==0.16.1",  # owl/mcore relies on its internals; see CONTRIBUTING.md
        "hydra-core>=1.3.2,<1.4",
        "omegaconf>=2.3,<2.4",
        "pyyaml",
        "numpy",
        "packaging",
        "pillow>=11.3,<13",  # 11.3 brought AVIF; 13 changed bicubic output and so would the tiles
        "simplejpeg>=1.8",
        "safetensors",
        "tokenizers",
        "tqdm",
        "filelock>=4",  # forked children do not inherit its locks
        "jinja2>=3.1",  # the preview page
        "psutil",  # torch.distributed.checkpoint saves with it
    ],
    extras_require=EXTRAS,
)
