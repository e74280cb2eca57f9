"""Rules of thumb for γ, the weight of R1 and R2, beside what a config has."""

from gan.config import Config

# What the penalties begin with in the presets of R3GAN (arXiv:2501.05441), lowest and highest, by the side of an image.
PRESETS = {32: (0.05, 0.5), 64: (1.0, 2.0), 256: (150.0, 150.0)}


def gamma_remark(config: Config, resolution: int) -> str | None:
    """One line: γ as the config has it, and where others began with as many pixels; None without R1 and R2."""
    terms = {name: term for name, term in config.objective.regularizers.items() if name in ("r1", "r2")}
    if not terms:
        return None
    found = []
    for name, term in terms.items():
        motion = config.schedules.get(f"objective.regularizers.{name}.weight")
        found.append(f"{name} {term.weight:g}" + (f" → {motion.to:g}" if motion else ""))
    side = min(PRESETS, key=lambda preset: (abs(preset - resolution), preset))
    low, high = PRESETS[side]
    presets = f"{low:g}" if low == high else f"{low:g} to {high:g}"
    return (
        f"{', '.join(found)}; R3GAN's presets begin at {presets} ({side}×{side}), StyleGAN2-ADA's rule for R1 alone "
        f"gives {stylegan2_gamma(resolution, config.training.batch_size):.2g}; docs/objectives.md"
    )


def stylegan2_gamma(resolution: int, batch_size: int) -> float:
    """0.0002 · side² / batch (Karras et al. 2020, arXiv:2006.06676; the `auto` preset of its code)."""
    return 0.0002 * resolution**2 / batch_size
