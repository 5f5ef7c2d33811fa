# SPDX-License-Identifier: Apache-2.0
"""The denominator of MFU."""

import pytest
import torch

from owl.train.device_peak import device_peak_tflops, peak_of


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989.0),
        ("NVIDIA H20", 148.0),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 NVL", 835.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA GH200 480GB", 989.0),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_a_device_is_known_by_the_name_its_driver_gives_it(name, peak):
    assert peak_of(name) == peak


def test_a_cpu_has_no_peak_but_the_one_that_is_set():
    cpu = torch.device("cpu")

    assert device_peak_tflops(cpu, None) is None
    assert device_peak_tflops(cpu, 1.5) == 1.5
