"""Cut channels out of a network, and save and load what is left."""

from dsa_core.surgery.cut import prune, try_forward
from dsa_core.surgery.files import load, save

__all__ = ["load", "prune", "save", "try_forward"]
