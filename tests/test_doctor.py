import pytest
import torch

from gpt2lab import doctor


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L40", None),
        ("NVIDIA GeForce RTX 4090", 165.0),
        ("Something new", None),
    ],
)
def test_tabled_peaks_are_of_the_card_named(monkeypatch, name, tflops):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(doctor, "matmul_tflops", lambda device, dtype: 1.5)
    found = doctor.peak(torch.device("cuda"), torch.bfloat16)
    assert found.tflops == (tflops or 1.5)
    assert ("table" in found.source) == (tflops is not None)


@pytest.mark.parametrize(
    ("ratio", "dtype"), [(0.5, "float32"), (1.2, "float32"), (2.0, "bfloat16")]
)
def test_bfloat16_only_where_it_is_faster(monkeypatch, ratio, dtype):
    def rate(device, dtype, n=None):
        return ratio if dtype is torch.bfloat16 else 1.0

    monkeypatch.setattr(doctor, "matmul_tflops", rate)
    assert doctor.fastest_dtype(torch.device("cpu")) == dtype


def test_measured_rates_are_of_this_world():
    cpu = torch.device("cpu")
    assert 0.0005 < doctor.matmul_tflops(cpu, torch.float32, 256) < 100
    assert 0.1 < doctor.read_gb_per_second(torch.ones(2**24)) < 5000
