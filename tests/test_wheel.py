"""What `pip install .` brings is enough: the wheel runs beside the core packages alone."""

import shutil
import subprocess
import sys
from importlib.metadata import PathDistribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]

PROGRAM = """
import torch, dsa_core as dsa
from torch import nn
net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3),
                    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))
x, y = torch.randn(32, 1, 8, 8), torch.randint(4, (32,))
optimizer = torch.optim.SGD(net.parameters(), 0.05)
pruner = dsa.Pruner(net, x[:1], dsa.Budget(macs=0.5), steps=12).attach(optimizer)
for _ in range(12):
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(x), y).backward()
    optimizer.step()
smaller = pruner.finish()
dsa.save("smaller", smaller, pruner.graph, pruner.allocation.keep, name="toy")
loaded = dsa.load("smaller", model=net)
smaller.eval()
assert torch.equal(loaded.eval()(x), smaller(x))
assert pruner.allocation.met
try:
    import torchvision
    raise SystemExit("the extras are here too")
except ModuleNotFoundError:
    print(dsa.__file__)
"""


def closure(requires: list[str]) -> dict[str, PathDistribution]:
    """All installed packages that some requirements need, without their extras."""
    found: dict[str, PathDistribution] = {}
    wanted = [Requirement(line) for line in requires]
    while wanted:
        requirement = wanted.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        if requirement.name not in found:
            found[requirement.name] = distribution(requirement.name)
            wanted += map(Requirement, found[requirement.name].requires or [])
    return found


@pytest.mark.slow
def test_the_wheel_runs_a_pruner_beside_the_core_packages_alone(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    source = tmp_path / "source"  # a build leaves folders beside the code
    for name in ("dsa_core", "notebooks/course"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source]
    subprocess.run([*pip, *build], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True, timeout=300)
    (own,) = site.glob("dsa_core-*.dist-info")
    for package in closure(PathDistribution(own).requires or []).values():
        for top in {file.parts[0] for file in package.files or [] if file.parts[0] != ".."}:
            link = site / top
            if not link.exists():
                link.symlink_to(package.locate_file(top))
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.append({str(site)!r})\n{PROGRAM}"],
        capture_output=True, text=True, cwd=tmp_path, timeout=300, env={"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(site)
