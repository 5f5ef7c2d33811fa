# SPDX-License-Identifier: Apache-2.0
"""The peak throughput of a device: the denominator of MFU."""

import torch

# Dense bf16 TFLOP/s of the vendors' data sheets. The first entry that is part of a device's name is
# used, so variants come before their family.
KNOWN = {
    "GB200": 2500.0,
    "B200": 2250.0,
    "H200": 989.0,
    "H100 NVL": 835.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "H800 PCIe": 756.0,
    "H800": 989.0,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "MI300X": 1307.0,
}


def device_peak_tflops(device: torch.device, setting: float | None) -> float | None:
    """Return the peak of a device in dense bf16 TFLOP/s, None where it is not known.

    Args:
        device: of this process.
        setting: the user's value, which takes precedence.
    """
    if setting is not None or device.type != "cuda":
        return setting
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """Look up a device by its driver's name for it, such as "NVIDIA H100 80GB HBM3"."""
    return next((peak for known, peak in KNOWN.items() if known in name), None)
