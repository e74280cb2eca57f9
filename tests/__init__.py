"""Where the tests find what they test."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
DEFAULT = ROOT / "configs" / "digits" / "sngan_cr.yaml"
SHARED_DATA = ROOT.parent / "shared" / "data"  # real images; tests that need them skip where they are not
