"""What the benchmarks share: timing, pictures, tables, and where a number was measured."""
