"""The fused kernels: interpreted on a CPU, compiled for an absent GPU, and run on one if there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="the package triton is not installed")
BODIES = Path(__file__).with_name("triton_interpreted.py")


def run_bodies(**environment: str) -> str:
    """The test bodies in a process of their own; Triton reads its settings when imported."""
    inherited = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", str(BODIES)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=inherited | environment, timeout=600
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_kernels_equal_torch_in_the_interpreter() -> None:
    summary = run_bodies(TRITON_INTERPRET="1", OMP_NUM_THREADS="1").splitlines()[-1]
    assert "passed" in summary or "100%" in summary, summary
    assert "skipped" not in summary


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_kernels_equal_torch_on_the_gpu() -> None:
    run_bodies()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_captured_in_a_graph_it_follows_its_inputs() -> None:
    from dsa_core.kernels import soft_topk

    scores, offsets = torch.randn(80, device="cuda"), torch.tensor([0, 16, 80], device="cuda")
    k = torch.tensor([4.0, 20.0], device="cuda")
    t = torch.full((2,), 0.3, dtype=torch.float64, device="cuda")
    soft_topk(scores, k, offsets, temperature=t, check=False)  # compiles outside the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        p = soft_topk(scores, k, offsets, temperature=t, check=False)
    scores.normal_()
    graph.replay()
    assert torch.equal(p, soft_topk(scores, k, offsets, temperature=t, check=False))


COMPILE = """
import triton, warnings
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from dsa_core.kernels import triton_kernels as kernels

def build(kernel, constants, **types):
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else types[name] for name in names}
    source = ASTSource(kernel, signature, {(names.index(n),): c for n, c in constants.items()})
    assert triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]

for s in ("*fp32", "*bf16"):
    shared = dict(scores=s, offsets="*i64", temperature="*fp64", threshold="*fp64")
    build(kernels.forward_kernel, dict(MAX=100, BLOCK=256),
          k="*fp32", p=s, **shared)
    build(kernels.backward_kernel, dict(BLOCK=256),
          grad=s, grad_scores=s, grad_k="*fp64", **shared)
print("built")
"""


@pytest.mark.slow
def test_kernels_compile_for_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    # the interpreter is lenient: types of loop variables, for one, are only checked here
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env["TRITON_CACHE_DIR"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], capture_output=True, text=True, env=env, timeout=300
    )
    if "ptxas" in done.stderr and "not found" in done.stderr.lower():
        pytest.skip("triton came without ptxas")
    assert done.stdout.endswith("built\n"), done.stderr[-3000:]
