ISA: str
build: object  # capsule of the table of functions, for `calls.use`
