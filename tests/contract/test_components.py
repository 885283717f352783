"""The contract of all components: specification, building, opening and closing."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import BaseModel, SecretStr, ValidationError

from engine.contract.component import Component, ComponentSpec, Kind, Sink, Source, Transform
from engine.registry import Registry
from tests.contract.component_cases import CASES, Case, marked
from tests.contract.outside_world import World
from tests.contract.traces import io_done, nothing_left

BASES = {Kind.SOURCE: Source, Kind.TRANSFORM: Transform, Kind.SINK: Sink}
SERVICES = {"", "s3", "llm", "ingest"}
SECRET_NAME = re.compile(r"secret|token$|password|(api|access|sse_c)_key|credential")

NAMES = Registry.installed().names()
SPECS = [Registry.installed().get(kind, name) for kind, name in NAMES]

every_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: f"{spec.kind}.{spec.name}")
every_case = pytest.mark.parametrize("case", marked(CASES), ids=str)


def test_every_component_has_a_case() -> None:
    tried = {(case.kind, case.name) for case in CASES}
    assert set(NAMES) - tried == set(), "add a case for these to component_cases.py"
    assert tried - set(NAMES) == set(), "these are in component_cases.py and not registered"


@every_spec
def test_the_specification_says_what_the_component_is(spec: ComponentSpec) -> None:
    assert (spec.kind, spec.name) in NAMES
    assert isinstance(spec.factory, type)
    assert issubclass(spec.factory, BASES[spec.kind])
    assert spec.summary.strip()
    assert "\n" not in spec.summary
    assert len(spec.description) > len(spec.summary), "a component is more than its first line"
    assert spec.sandbox in SERVICES
    assert bool(spec.sandbox) <= (spec.connection is not None), "an embedded service is a connection"


@every_spec
def test_every_parameter_is_described_and_unknown_ones_are_refused(spec: ComponentSpec) -> None:
    for model in filter(None, (spec.params, spec.connection)):
        undescribed = [name for name, info in model.model_fields.items() if not info.description]
        assert undescribed == [], model
        with pytest.raises(ValidationError) as caught:
            model.model_validate({"no_such_parameter": 1})
        assert "extra_forbidden" in {error["type"] for error in caught.value.errors()}


@every_spec
def test_the_schema_is_json_schema(spec: ComponentSpec) -> None:
    for model in filter(None, (spec.params, spec.connection)):
        schema = json.loads(json.dumps(model.model_json_schema()))
        Draft202012Validator.check_schema(schema)
        assert schema["additionalProperties"] is False


@every_spec
def test_what_is_named_like_a_secret_is_typed_as_one(spec: ComponentSpec) -> None:
    for model in filter(None, (spec.params, spec.connection)):
        named = {name for name in model.model_fields if SECRET_NAME.search(name)}
        typed = {
            name for name, info in model.model_fields.items() if SecretStr.__name__ in str(info.annotation)
        }
        # headers may hold a secret whatever they are called
        assert named == typed - {"headers"}


SECRET = SecretStr("hush-hush")


@every_case
def test_secrets_are_never_shown(case: Case[Any], nowhere: World) -> None:
    params, connection = case.configured(nowhere)
    for one in filter(None, (params, connection)):
        types = {name: str(info.annotation) for name, info in type(one).model_fields.items()}
        filled: BaseModel = one.model_copy(
            update={
                name: {"x": SECRET} if "dict" in kind else SECRET
                for name, kind in types.items()
                if "SecretStr" in kind
            }
        )
        component = case.spec.factory(params, filled)
        for shown in (repr(filled), str(filled), filled.model_dump_json(), repr(component)):
            assert "hush-hush" not in shown


@every_case
def test_building_does_no_io_and_takes_no_event_loop(case: Case[Any], nowhere: World) -> None:
    factory, (params, connection) = case.spec.factory, case.configured(nowhere)
    factory(params, connection)  # imports are done by now
    with io_done() as seen:
        component = factory(params, connection)
    assert isinstance(component, BASES[case.kind])
    assert seen == []


@every_case
async def test_it_opens_and_closes_and_leaves_nothing(case: Case[Any], world: World) -> None:
    component = case.build(world)
    async with nothing_left():
        async with component as opened:
            assert opened is component


@every_case
async def test_another_instance_opens_after_the_first_and_beside_it(case: Case[Any], world: World) -> None:
    async with nothing_left():
        async with case.build(world):
            pass
        async with case.build(world), case.build(world):
            pass


@every_case
async def test_an_error_inside_the_block_comes_out_and_nothing_is_left(case: Case[Any], world: World) -> None:
    async def fail(component: Component[Any]) -> None:
        async with component:
            raise LookupError("of the work")

    async with nothing_left():
        with pytest.raises(LookupError, match="of the work"):
            await fail(case.build(world))


@every_case
async def test_one_that_was_never_opened_needs_no_closing(case: Case[Any], nowhere: World) -> None:
    async with nothing_left():
        case.build(nowhere)


@every_case
def test_concurrency_and_limits_are_known_before_it_is_open(case: Case[Any], nowhere: World) -> None:
    component = case.build(nowhere)
    assert component.concurrency >= 1
    assert component.limits.records >= 0
    assert component.limits.nbytes >= 0
