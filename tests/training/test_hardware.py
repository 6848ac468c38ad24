"""What a run gets to compute with: asked for, chosen, and said."""

import platform
import subprocess
import sys

import pytest
import torch

from poise.training import hardware

CPU = torch.device("cpu")


def test_compiling_is_left_out_where_it_does_not_pay() -> None:
    assert not hardware.choose_compile("auto", CPU)
    assert not hardware.choose_compile(False, CPU)


def test_a_missing_compiler_is_said_once_and_not_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: object) -> object:
        raise RuntimeError("no C++ compiler\nwas found")

    monkeypatch.setattr(torch, "compile", broken)
    said: list[str] = []
    assert not hardware.choose_compile(True, CPU, said.append)
    assert said == ["torch.compile does not work here, networks run uncompiled: no C++ compiler was found"]


def test_an_unknown_device_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"given 'abacus'; allowed here: auto, cpu"):
        hardware.choose_device("abacus")


def test_precision_is_what_was_asked_for_or_what_the_processor_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hardware.choose_precision("fp32", CPU) == "fp32"
    for has, chosen in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(hardware, "cpu_has_bf16", lambda has=has: has)
        assert hardware.choose_precision("auto", CPU) == chosen


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have their own ways")
def test_memory_that_is_freed_is_had_again_without_asking_the_system() -> None:
    program = """if True:
        import resource
        from pathlib import Path
        import torch
        from poise.training import hardware

        def pages_asked_for():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.ones(2**24)  # 64 MiB, 16,384 pages
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        def resident():
            return int(Path("/proc/self/statm").read_text().split()[1])

        with hardware.kept_memory(torch.device("cpu")):
            # The first ones find their place among what else there is.
            assert min(pages_asked_for() for _ in range(9)) < 1000
            before = resident()
        assert before - resident() > 10_000
        # Those after the first may be given its place, if it lies between others: that is the C library's affair.
        assert pages_asked_for() > 10_000
    """
    # In a process of its own: what other tests have left on the heap decides what the C library can give back.
    subprocess.run([sys.executable, "-c", program], check=True)
