# SPDX-License-Identifier: Apache-2.0
"""The machine tables of configs/device: how fast a device computes, reads and communicates."""

from dataclasses import dataclass

import yaml

from owl.config.load import CONFIGS, MACHINES
from owl.config.node import build_node
from owl.errors import ConfigError


@dataclass(kw_only=True)
class Machine:
    """Rates of one device of a cluster; each file gives their sources."""

    name: str = ""
    memory_gib: float = 0.0
    peak_tflops: float = 0.0  # dense bf16
    matmul_efficiency: float = 1.0
    attention_tflops: float = 0.0
    bandwidth_gbps: float = 0.0  # of the device's memory, GB/s
    bandwidth_efficiency: float = 1.0
    kernel_us: float = 0.0  # the host needs this long for each
    gpus_per_node: int = 8
    link_gbps: float = 0.0  # between devices of a node, each direction, GB/s
    link_efficiency: float = 1.0
    network_gbps: float = 0.0  # between nodes, for each device, GB/s
    network_efficiency: float = 1.0

    @property
    def memory_bytes(self) -> int:
        """Bytes of device memory."""
        return int(self.memory_gib * (1 << 30))


def load_machine(name: str) -> Machine:
    """Read configs/device/NAME.yaml.

    Raises:
        ConfigError: there is no such file.
    """
    path = CONFIGS / MACHINES / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml")))
        raise ConfigError(
            f"rehearse.device={name} names no file in configs/device. Use one of {known}, or add a "
            f"file with your machine's rates."
        )
    return build_node(Machine, yaml.safe_load(path.read_text()))
