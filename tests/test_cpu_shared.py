"""The interpreter's tests once more, with the kernels compiled for the CPU."""

import re

import pytest
from hypothesis import Phase, settings

from fusedsl.codegen.cpu.errors import CannotCompile
from fusedsl.codegen.cpu.launch import launch
from tests import test_interpreter as shared

# Tests of what is otherwise here, by intent.
OTHERWISE = {
    "test_a_half_precision_sum_rounds_at_every_addition": "it adds in another order",
    "test_dot_in_tf32_drops_bits_of_float32": "products of f32 are in f32",
    "test_other_fills_masked_lanes_and_without_it_they_are_undefined": "undefined lanes are 0, not NaN",
    "test_libdevice_that_is_missing_says_so": "nothing of it is",
    "test_device_print": "it prints as a GPU does",
    "test_device_assert_raises": "tl.assume is not checked",
    "test_an_access_outside_the_arguments_raises": "accesses are not checked",
    "test_pointers_are_values": "bytes are not counted",
    "test_a_table_of_pointers": "bytes are not counted",
    "test_traffic_is_exact": "bytes are not counted",
    "test_traffic_of_overlapping_arguments_counts_a_byte_once": "bytes are not counted",
    "test_traffic_of_atomics_is_both": "bytes are not counted",
    "test_strict_traffic_stops_at_the_edge_of_a_view": "bytes are not counted",
    "test_threads_launch_while_others_compile": "it is about the interpreter",
}
# Tests of what is refused, and how the refusal names it.
REFUSED = {
    "test_inline_assembly_cannot_be_interpreted": "tt.elementwise_inline_asm",
}
# The time goes into compiling, once for each kernel; the other test_cpu files have cases at length.
FEW = settings(max_examples=3, phases=[Phase.explicit, Phase.generate])

for name, test in vars(shared).items():
    if name.startswith("test_") and name not in OTHERWISE:
        globals()[name] = FEW(test) if hasattr(test, "hypothesis") else test


@pytest.fixture(autouse=True)
def compiled(request, monkeypatch):
    def native(kernel, grid, arguments, hooks=None, *, signature=None):
        launch(kernel, grid, arguments, signature=signature)

    monkeypatch.setattr(shared, "launch", native)
    if lacking := REFUSED.get(request.node.name):
        why = rf"test_interpreter\.py:\d+: {re.escape(lacking)}"
        request.applymarker(pytest.mark.xfail(raises=pytest.RaisesExc(CannotCompile, match=why), strict=True))


def test_every_exception_is_of_a_test():
    names = {name.partition("[")[0] for name in (*OTHERWISE, *REFUSED)}
    assert names <= set(vars(shared))
