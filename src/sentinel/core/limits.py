"""Every bound in the house: its name, its unit, its reason.

Relations between bounds are checked when this module is imported.
"""

from __future__ import annotations

# --- core -------------------------------------------------------------------------------------
# One terminal line of foreign text in an error is enough to recognise it.
ERROR_VALUE_CHARACTERS_MAX = 80
# Paths are longer than values, and useless when cut in the middle.
ERROR_PLACE_CHARACTERS_MAX = 300
# A configuration file is written by hand; more than this is a mistake in the path.
CONFIGURATION_FILE_BYTES_MAX = 1 << 20

# --- contract ---------------------------------------------------------------------------------
# One event: a payment is 0.3 to 2 kB; 64 kB leaves room and bounds the cost of a hostile one.
EVENT_BYTES_MAX = 64 * 1024
# Nesting: contracts are flat; anything deeper is refused anyway, this bounds the look at it.
EVENT_DEPTH_MAX = 32
# Fields of one contract: the seen-fields set is one 64-bit word pair.
CONTRACT_FIELDS_MAX = 128
# Integers that survive the way into a float64.
FLOAT_EXACT_INTEGER_MAX = 1 << 53
# Event time against the receiving clock, both ways (DESIGN, Contract).
EVENT_TIME_SKEW_MS_MAX = 5 * 60 * 1000

# --- data -------------------------------------------------------------------------------------

# --- features ---------------------------------------------------------------------------------
# Tiles a window: look-back is exact to W/N (DESIGN, Features).
WINDOW_TILES_DEFAULT = 12

# --- monitoring -------------------------------------------------------------------------------

# --- scoring ----------------------------------------------------------------------------------

# --- release ----------------------------------------------------------------------------------
# Trees of one model: published boosted models of payments have hundreds.
MODEL_TREES_MAX = 20_000
# Nodes of one model: 200 trees of 31 leaves have 12,200; a million is 60 MB of ONNX.
MODEL_NODES_MAX = 1_000_000
# Inputs of one model: one float32 each for every event in the decision log.
MODEL_FEATURES_MAX = 4_096

# --- training ---------------------------------------------------------------------------------

# --- streaming --------------------------------------------------------------------------------

_RELATIONS = {
    "a shown value fits the shown place": ERROR_VALUE_CHARACTERS_MAX <= ERROR_PLACE_CHARACTERS_MAX,
}
for _relation, _holds in _RELATIONS.items():
    if not _holds:
        raise AssertionError(f"core/limits.py: {_relation}")
