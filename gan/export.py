"""Share a trained generator: `python -m gan.export RUN --format onnx --out DIR`, the same as `gan export`."""

from gan.processes import importing

with importing():
    from gan.commands.line.export import main

if __name__ == "__main__":
    main(prog_name="python -m gan.export")
