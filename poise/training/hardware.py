"""Which device and arithmetic a run gets, chosen once and said."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch


def choose_device(wanted: str) -> torch.device:
    """The device asked for; "auto" is the first accelerator, else the CPU. Raises ValueError if it is not there."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if wanted == "auto":
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        here = f"cpu and {accelerator}" if accelerator else "cpu"
        raise ValueError(f"device: given {wanted!r}; allowed here: auto, {here}") from None
    return device


def choose_precision(wanted: str, device: torch.device) -> str:
    """Resolve "auto": bf16 where the device multiplies it natively (AVX512-BF16, AMX, CUDA from sm_80), else fp32."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        return "bf16" if cpu_has_bf16() else "fp32"
    return "fp32"


def choose_compile(wanted: bool | Literal["auto"], device: torch.device, say: Callable[[str], None] = print) -> bool:
    """Whether networks go through ``torch.compile``: "auto" does on CUDA; on a CPU it was measured to be slower.

    Where it is wanted and does not work, one line says why, and networks run as they are.
    """
    if not (device.type == "cuda" if wanted == "auto" else wanted):
        return False
    try:
        torch.compile(lambda x: x + 1)(torch.ones(1, device=device))
    except Exception as error:  # a missing compiler is told in many ways
        say(f"torch.compile does not work here, networks run uncompiled: {' '.join(str(error).split())[:200]}")
        return False
    return True


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Within it, memory that is freed stays with the process, for the next step, where training is on a CPU.

    glibc gives large tensors back to the system at once; to get them again, zeroed page by page, then takes longer than
    many a layer's arithmetic. Memory returns to the system at the end. Nothing happens on devices, whose allocators
    keep memory anyway, and with other C libraries.
    """
    libc = ctypes.CDLL(None) if device.type == "cpu" and sys.platform == "linux" else None
    mallopt, malloc_trim = getattr(libc, "mallopt", None), getattr(libc, "malloc_trim", None)
    if mallopt is None or malloc_trim is None:
        yield
        return
    mallopt(_MMAP_MAX, 0)
    mallopt(_TRIM_THRESHOLD, -1)  # never
    try:
        yield
    finally:
        mallopt(_MMAP_MAX, 65536)
        mallopt(_TRIM_THRESHOLD, 128 * 1024)
        malloc_trim(0)


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # numbers of glibc's malloc.h


def cpu_has_bf16() -> bool:
    """Whether this processor has bf16 dot products: AVX512-BF16 or AMX."""
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def describe(device: torch.device) -> str:
    """The processor's name, with its thread count for the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return device.type
