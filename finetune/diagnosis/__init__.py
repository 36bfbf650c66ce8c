"""Evidence (measures) -> verdict (a pure function over numbers) -> remedy."""
