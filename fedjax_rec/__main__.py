"""`python -m fedjax_rec`: the same as the command `fedjax-rec`."""

from fedjax_rec.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
