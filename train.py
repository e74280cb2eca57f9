"""Train a GAN: `python train.py CONFIG --set section.key=value`, the same as `gan train`."""

from gan.processes import importing

with importing():
    from gan.commands.line.train import main

if __name__ == "__main__":
    main()
