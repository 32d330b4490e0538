"""What must hold in vLLM's block pool at every moment."""

from __future__ import annotations

from safekv.bench.vllm.rig import Rig


def check(served: Rig) -> None:
    """Every name leads to a block that has it, and free blocks are free."""
    pool = served.pool
    names: dict[int, set[bytes]] = {}
    for name, found in pool.cached_block_hash_to_block._cache.items():
        blocks = list(found.values()) if isinstance(found, dict) else [found]
        assert blocks
        for block in blocks:
            names.setdefault(block.block_id, set()).add(name)
    for block in pool.blocks:
        known = {block.block_hash} if block.block_hash is not None else set()
        known |= pool.cached_block_hashes_by_block.get(block.block_id, set())
        assert known == names.get(block.block_id, set())
    free = {block.block_id for block in pool.free_block_queue.get_all_free_blocks()}
    assert len(free) == pool.get_num_free_blocks()
    assert free == {b.block_id for b in pool.blocks if not b.ref_cnt and not b.is_null}
