"""Stage 3: asks a language model about blocks that the other stages leave in doubt."""

from safekv.detect.judge.judge import Judge

__all__ = ["Judge"]
