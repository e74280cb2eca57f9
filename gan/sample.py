"""Images of a trained generator: `python -m gan.sample RUN --out DIR`, the same as `gan sample`."""

from gan.processes import importing

with importing():
    from gan.commands.line.sample import main

if __name__ == "__main__":
    main(prog_name="python -m gan.sample")
