"""Follow every channel of a network: which must be kept or removed together, and where each one
lies."""

from dsa_core.channels.assemble import follow
from dsa_core.channels.checks import check_fits
from dsa_core.channels.graph import ChannelGraph, Group, Layer, Norm
