"""The values that options of measures accept by name. Imports no torch: the command line's help lists them."""

from typing import Literal, get_args

Kind = Literal["branch", "shortcut", "mean", "noise", "shuffle", "shortcut-mean", "shortcut-noise", "shortcut-shuffle"]
Network = Literal["original", "plain", "reinitialized", "reinitialized plain"]
Method = Literal["exact", "estimate"]

KINDS: tuple[Kind, ...] = get_args(Kind)
NETWORKS: tuple[Network, ...] = get_args(Network)
