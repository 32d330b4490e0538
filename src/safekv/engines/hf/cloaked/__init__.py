"""How blocks lie in the engine's memory when they are obfuscated: `safekv.cloak`, page by page."""
