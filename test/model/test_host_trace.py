"""Recorded work gives the bytes of the work and follows its inputs; where nothing records, the work runs."""

import pytest
import torch

from cosmos3_ros.model.host_trace import HostTrace


def work(calls, sample, room):
    calls.append(1)
    mixed = torch.nn.functional.scaled_dot_product_attention(sample[None], sample[None], sample[None])[0]
    room.add_(1.0)
    return torch.nn.functional.silu(mixed) @ sample.t() * torch.rsqrt(mixed.pow(2).mean() + 1e-6), room.sum()


@pytest.mark.parametrize('guard', [torch.no_grad, torch.inference_mode])
def test_the_record_is_the_work(guard):
    calls, random = [], torch.Generator().manual_seed(0)
    with guard():
        sample, room = torch.zeros(24, 16), torch.zeros(3)
        trace = HostTrace(lambda *given: work(calls, *given))
        for run in range(5):
            sample.copy_(torch.randn(24, 16, generator=random))
            want, total = work([], sample, room.clone())
            got, count = trace.run(sample, room)
            assert torch.equal(got, want) and count == total == 3.0 * (run + 1)
    assert len(calls) == 2  # once as it stands, once to record


def test_without_a_recorder_the_work_runs(monkeypatch, caplog):
    def refuse(*_, **__):
        raise RuntimeError('not in this build')

    monkeypatch.setattr(torch.jit, 'trace', refuse)
    trace = HostTrace(lambda x: (x + 1,))
    assert all(torch.equal(trace.run(torch.zeros(2))[0], torch.ones(2)) for _ in range(3))
    assert caplog.text.count('not in this build') == 1
