"""How fast the learners are, and what they spend: `python -m benchmarks --help`. Timings decide no test."""
