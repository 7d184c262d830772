"""What each operation of TTIR is in Python, over numpy arrays and the functions of hardware.py: a text with places for
operands."""

from __future__ import annotations

from .hardware import raw_dtype
from .ttir import STRING, Op, Type

# Each table maps an operation to a Python expression of its operands {0}, {1}, ...

FLOAT_OPS = {
    "arith.addf": "{0} + {1}", "arith.subf": "{0} - {1}", "arith.mulf": "{0} * {1}", "arith.divf": "{0} / {1}",
    "arith.remf": "np.fmod({0}, {1})", "arith.negf": "-{0}",
    "arith.maxnumf": "np.fmax({0}, {1})", "arith.minnumf": "np.fmin({0}, {1})",
    "arith.maximumf": "np.maximum({0}, {1})", "arith.minimumf": "np.minimum({0}, {1})",
    "math.absf": "np.abs({0})", "math.ceil": "np.ceil({0})", "math.floor": "np.floor({0})",
    "math.exp": "np.exp({0})", "math.exp2": "np.exp2({0})", "math.log": "np.log({0})", "math.log2": "np.log2({0})",
    "math.sin": "np.sin({0})", "math.cos": "np.cos({0})", "math.erf": "erf({0})",
    "math.sqrt": "np.sqrt({0})", "math.rsqrt": "1 / np.sqrt({0})",
    "tt.precise_sqrt": "np.sqrt({0})", "tt.precise_divf": "{0} / {1}",
    "tt.clampf": "clamp({0}, {1}, {2}, {op.propagates_nan})",
}

INT_OPS = {
    "arith.addi": "{0} + {1}", "arith.subi": "{0} - {1}", "arith.muli": "{0} * {1}",
    "arith.divsi": "divide({0}, {1})", "arith.remsi": "np.fmod({0}, {1})",
    "arith.divui": "signed(unsigned({0}) // unsigned({1}))",
    "arith.remui": "signed(unsigned({0}) % unsigned({1}))",
    "arith.andi": "{0} & {1}", "arith.ori": "{0} | {1}", "arith.xori": "{0} ^ {1}",
    "arith.shli": "shift_left({0}, {1})", "arith.shrui": "shift_right({0}, {1})",
    "arith.shrsi": "shift_right_signed({0}, {1})",
    "arith.maxsi": "np.maximum({0}, {1})", "arith.minsi": "np.minimum({0}, {1})",
    "arith.maxui": "signed(np.maximum(unsigned({0}), unsigned({1})))",
    "arith.minui": "signed(np.minimum(unsigned({0}), unsigned({1})))",
    "math.absi": "np.abs({0})", "tt.mulhiui": "multiply_high({0}, {1})",
}

BOOL_OPS = {  # arithmetic modulo 2; a signed 1-bit integer is 0 or -1
    "arith.addi": "{0} ^ {1}", "arith.subi": "{0} ^ {1}", "arith.muli": "{0} & {1}",
    "arith.andi": "{0} & {1}", "arith.ori": "{0} | {1}", "arith.xori": "{0} ^ {1}",
    "arith.maxsi": "{0} & {1}", "arith.minsi": "{0} | {1}", "arith.maxui": "{0} | {1}", "arith.minui": "{0} & {1}",
}

COMPARISONS = {
    "arith.cmpi eq": "{0} == {1}", "arith.cmpi ne": "{0} != {1}",
    "arith.cmpi slt": "{0} < {1}", "arith.cmpi sle": "{0} <= {1}",
    "arith.cmpi sgt": "{0} > {1}", "arith.cmpi sge": "{0} >= {1}",
    "arith.cmpi ult": "unsigned({0}) < unsigned({1})", "arith.cmpi ule": "unsigned({0}) <= unsigned({1})",
    "arith.cmpi ugt": "unsigned({0}) > unsigned({1})", "arith.cmpi uge": "unsigned({0}) >= unsigned({1})",
    "arith.cmpf oeq": "{0} == {1}", "arith.cmpf one": "({0} < {1}) | ({0} > {1})",
    "arith.cmpf olt": "{0} < {1}", "arith.cmpf ole": "{0} <= {1}",
    "arith.cmpf ogt": "{0} > {1}", "arith.cmpf oge": "{0} >= {1}",
    "arith.cmpf ord": "({0} == {0}) & ({1} == {1})", "arith.cmpf uno": "({0} != {0}) | ({1} != {1})",
    "arith.cmpf ueq": "~(({0} < {1}) | ({0} > {1}))", "arith.cmpf une": "{0} != {1}",
    "arith.cmpf ult": "~({0} >= {1})", "arith.cmpf ule": "~({0} > {1})",
    "arith.cmpf ugt": "~({0} <= {1})", "arith.cmpf uge": "~({0} < {1})",
}

OTHER_OPS = {
    # conversions
    "arith.extsi": "sign_extend({0}, {op.bits})", "arith.extui": "unsigned({0}).astype('i{op.size}')",
    "arith.trunci": "truncate({0}, {op.bits})", "arith.index_cast": "{0}.astype('i8')",
    "arith.sitofp": "int_to_float({op.as_signed}, '{op.target}')",
    "arith.uitofp": "int_to_float(unsigned({0}), '{op.target}')",
    "arith.fptosi": "float_to_int({0}, '{op.source}', {op.bits}, True)",
    "arith.fptoui": "float_to_int({0}, '{op.source}', {op.bits}, False)",
    "arith.extf": "float_to_float({0}, '{op.source}', '{op.target}')",
    "arith.truncf": "float_to_float({0}, '{op.source}', '{op.target}')",
    "tt.fp_to_fp": "float_to_float({0}, '{op.source}', '{op.target}', {op.toward_zero})",
    "arith.bitcast": "bitcast({0}, '{op.source}', '{op.target}')",
    "tt.bitcast": "bitcast({0}, '{op.source}', '{op.target}')",
    "tt.ptr_to_int": "{0}.astype('i{op.size}')", "tt.int_to_ptr": "{0}.astype('i8')",
    # elementwise
    "arith.select": "np.where({0}, {1}, {2})[()]",
    "math.fma": "fma({0}, {1}, {2}, '{op.target}')",
    "tt.addptr": "{0} + np.multiply({1}, {op.pointee_size}, dtype='i8')",
    # shapes
    "tt.splat": "np.reshape({0}, {op.ones})", "tt.unsplat": "{0}.reshape(-1)[0]", "tt.broadcast": "{0}",
    "tt.expand_dims": "np.expand_dims({0}, {op.axis})", "tt.trans": "np.transpose({0}, ({op.order},))",
    "tt.reshape": "reshape({0}, {op.source_shape}, {op.shape})",
    "tt.cat": "np.concatenate([full({0}, {op.source_shape}), full({1}, {op.source_shape})])",
    "tt.join": "np.stack(np.broadcast_arrays({0}, {1}), -1)", "tt.split": "split({0})",
    "tt.make_range": "np.arange({op.start}, {op.end}, dtype=np.int32)",
    "tt.gather": "gather({0}, {1}, {op.axis}, {op.source_shape}, {op.shape})",
    "tt.histogram": "histogram({0}, {op.optional[1]}, {op.source_shape}, {op.shape}[0])",
    "ub.poison": "from_raw(np.zeros({op.ones}, '{op.raw}'), '{op.target}')",
}

# The values depend on the program, or something happens.
PROGRAM_OPS = {
    "tt.get_program_id": "pid[{op.dimension}]", "tt.get_num_programs": "grid[{op.dimension}]",
    "tt.load": "memory.load({0}, {op.optional[1]}, {op.optional[2]}, {op.source_shape}, '{op.pointee}')",
    "tt.store": "memory.store({0}, {1}, {op.optional[2]}, {op.source_shape}, '{op.pointee}')",
    # one program runs after another, so that a plain access is atomic
    "tt.atomic_load": "memory.load({0}, {op.optional[1]}, None, {op.source_shape}, '{op.pointee}')",
    "tt.atomic_store": "memory.store({0}, {1}, {op.optional[2]}, {op.source_shape}, '{op.pointee}')",
    "tt.atomic_rmw": "memory.atomic_rmw('{op.rmw}', {0}, {1}, {op.optional[2]}, {op.source_shape}, '{op.pointee}')",
    "tt.atomic_cas": "memory.atomic_cas({0}, {1}, {2}, {op.source_shape}, '{op.pointee}')",
    "tt.assert": "check({0}, {op.string})", "llvm.intr.assume": "check({0}, 'tl.assume does not hold')",
    "tt.print": "show(pid, {op.string}, {op.all})",
    "gpu.barrier": "None", "ttg.barrier": "None", "tt.debug_barrier": "None",
}

# Reductions that one numpy call does, in any order.
EXACT_REDUCTIONS = {
    "arith.addi": "add", "arith.muli": "multiply", "arith.maxsi": "maximum", "arith.minsi": "minimum",
    "arith.andi": "bitwise_and", "arith.ori": "bitwise_or", "arith.xori": "bitwise_xor",
    "arith.maxnumf": "fmax", "arith.minnumf": "fmin", "arith.maximumf": "maximum", "arith.minimumf": "minimum",
}


class View:
    """What a template may say about its operation: `{op.shape}`, `{op.axis}`, ..."""

    def __init__(self, op: Op, operands: list[str]) -> None:
        self._op, self._operands = op, operands
        self._first = op.types[0] if op.types else Type("")
        self._last = op.types[-1] if op.types else Type("")

    source = property(lambda self: self._first.element)
    target = property(lambda self: self._last.element)
    source_shape = property(lambda self: self._first.extent)
    shape = property(lambda self: self._last.extent)
    ones = property(lambda self: (1,) * len(self._last.extent))
    bits = property(lambda self: int(self._last.element[1:]))
    size = property(lambda self: self.bits // 8)
    raw = property(lambda self: raw_dtype(self._last.element).str)
    pointee = property(lambda self: self._first.pointee)
    pointee_size = property(lambda self: raw_dtype(self._first.pointee).itemsize)
    axis = property(lambda self: int(self._op.attribute("axis")))
    start = property(lambda self: int(self._op.attribute("start")))
    end = property(lambda self: int(self._op.attribute("end")))
    order = property(lambda self: self._op.attribute("order"))
    propagates_nan = property(lambda self: self._op.attribute("propagateNan", "none") == "all")
    toward_zero = property(lambda self: self._op.attribute("rounding", "rtne") == "rtz")
    dimension = property(lambda self: "xyz".index(self._op.text.split()[0]))
    rmw = property(lambda self: self._op.text.split(",")[0].strip())
    string = property(lambda self: STRING.findall(self._op.text)[0])
    all = property(lambda self: ", ".join(self._operands))
    optional = property(lambda self: [*self._operands, "None", "None"])
    as_signed = property(
        lambda self: f"sign_extend({self._operands[0]}, 32)" if self.source == "i1" else self._operands[0]
    )
