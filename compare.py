"""Compare arms over seeds: `python compare.py EXPERIMENT`, the same as `gan compare`."""

from gan.processes import importing

with importing():
    from gan.commands.line.compare import main

if __name__ == "__main__":
    main()
