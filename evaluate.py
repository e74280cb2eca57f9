"""Score a trained generator: `python evaluate.py checkpoint RUN`, the same as `gan evaluate`."""

from gan.processes import importing

with importing():
    from gan.commands.line.evaluate import main

if __name__ == "__main__":
    main()
