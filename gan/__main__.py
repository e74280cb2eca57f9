"""`python -m gan`, the same as the command `gan`."""

from gan.processes import importing

with importing():
    from gan.commands.main import main

if __name__ == "__main__":
    main(prog_name="python -m gan")
