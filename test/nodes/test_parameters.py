"""A table checks like its descriptors, rejects a set as a whole and documents itself."""

from hypothesis import given
from hypothesis import strategies as st
import pytest
from rcl_interfaces.srv import DescribeParameters, SetParametersAtomically
from rclpy.parameter import Parameter as RosParameter
from ros_graph import Graph

from cosmos3_ros.nodes.base import LifecycleBase
from cosmos3_ros.nodes.parameters import Parameter, ParameterError, ParameterTable
from cosmos3_ros.nodes.qos import STREAMS, default_profile, make_profile, qos_parameters

RATE = Parameter('rate_hz', float, 10.0, 'Rate.', unit='Hz', range=(1, 100))
MODE = Parameter('mode', str, 'a', 'Mode.', choices=('a', 'b'))
COUNT = Parameter('count', int, 2, 'Count.', range=(0, 9))
NAMES = Parameter('names', list[str], [], 'Names.')
FIXED = Parameter('fixed', float, 1.0, 'Fixed.', read_only=True)


@given(st.floats() | st.integers(-300, 300))
def test_range_is_exact(value):
    if 1 <= value <= 100:
        assert RATE.check(value) == value and isinstance(RATE.check(value), float)
    else:
        with pytest.raises(ParameterError, match=r'rate_hz.*arrived'):
            RATE.check(value)


@pytest.mark.parametrize(('row', 'value'), [
    (RATE, '5'), (RATE, True), (COUNT, 2.0), (COUNT, True), (COUNT, 10), (MODE, 'c'), (MODE, 1),
    (NAMES, 'abc'), (NAMES, [1])])
def test_wrong_values_are_refused_naming_the_parameter(row, value):
    with pytest.raises(ParameterError, match=row.name):
        row.check(value)


def test_choices_are_listed():
    with pytest.raises(ParameterError, match="'c' arrived, allowed are: a, b"):
        MODE.check('c')


def test_empty_strings_leave_a_list():
    assert NAMES.check(['', 'x', '']) == ['x']


def test_a_table_that_contradicts_itself_is_refused():
    with pytest.raises(ParameterError, match='declared twice: mode'):
        ParameterTable(MODE, MODE)
    with pytest.raises(ParameterError, match='200'):
        Parameter('x', float, 200.0, '', range=(0, 1))


class Node(LifecycleBase):
    NAME = 'tabled'
    TABLE = ParameterTable(
        RATE, MODE, COUNT, NAMES, FIXED, *qos_parameters('images'),
        check=lambda v: 'mode b needs a count' if v['mode'] == 'b' and not v['count'] else None)


def set_together(graph: Graph, **values: object) -> tuple[bool, str]:
    request = SetParametersAtomically.Request(
        parameters=[RosParameter(name, value=value).to_parameter_msg() for name, value in values.items()])
    result = graph.call(SetParametersAtomically, '/tabled/set_parameters_atomically', request).result
    return result.successful, result.reason


def test_sets_are_accepted_or_rejected_as_a_whole(graph):
    node = graph.add(Node, rate_hz=5, names=['x'])
    assert node.values['rate_hz'] == 5.0 and node.values['names'] == ['x']
    assert set_together(graph, rate_hz=7, mode='b') == (True, '')
    assert (node.values['rate_hz'], node.values['mode']) == (7.0, 'b')
    accepted, reason = set_together(graph, rate_hz=8.0, count=0)
    assert not accepted and reason == 'mode b needs a count'
    assert node.values['rate_hz'] == 7.0
    assert not set_together(graph, fixed=2.0)[0]
    assert 'out of range' in set_together(graph, rate_hz=1000.0)[1]
    assert 'rate_hz' in set_together(graph, rate_hz='fast')[1]
    described = graph.call(
        DescribeParameters, '/tabled/describe_parameters',
        DescribeParameters.Request(names=['rate_hz', 'mode', 'fixed'])).descriptors
    assert described[0].description == 'Rate. [Hz]' and described[0].floating_point_range[0].to_value == 100.0
    assert 'a, b' in described[1].description and described[2].read_only


def test_override_out_of_range_refuses_the_node(graph):
    with pytest.raises(ParameterError, match='rate_hz'):
        graph.add(Node, rate_hz=1000.0)


def test_the_table_documents_itself():
    lines = Node.TABLE.markdown().splitlines()
    assert lines[2] == '| `rate_hz` | float | `10.0` | 1 .. 100 | Hz | Rate. |'
    assert len(lines) == 2 + len(list(Node.TABLE))


def test_qos_names_are_listed_when_wrong():
    with pytest.raises(ParameterError, match='reliable, best_effort'):
        make_profile('perfect', 1)
    with pytest.raises(ParameterError, match='volatile, transient_local'):
        make_profile('reliable', 1, 'eternal')
    with pytest.raises(ParameterError, match='unknown, known are: images'):
        qos_parameters('smells')
    for stream in STREAMS:
        assert default_profile(stream).depth >= 1
