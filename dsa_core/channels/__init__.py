"""Follow every channel of a network: which must be kept or removed together, and where each one
lies."""

from dsa_core.channels.graph import ChannelGraph, Group, Layer, Norm, trace

__all__ = ["ChannelGraph", "Group", "Layer", "Norm", "trace"]
