"""The OpenAPI document that Cog's server validates requests with.

`cog build` makes it with a static parser; without Docker we make the same from the signature. The
server reads it from `.cog/openapi_schema.json` in its working directory. Of an image that predicts
and trains, `cog build` joins both documents into one: what both have is the same in both.
"""

import inspect
import types
import typing
from dataclasses import dataclass
from typing import Any

import cog
from cog import FieldInfo

from cli.runners import Mode, RunnerFile

_JSON_TYPES: dict[Any, dict[str, str]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    cog.Path: {"type": "string", "format": "uri"},
}
_LIMITS = {
    "ge": "minimum",
    "le": "maximum",
    "min_length": "minLength",
    "max_length": "maxLength",
    "regex": "pattern",
    "deprecated": "deprecated",
    "accept": "x-cog-accept",
}
_STRING = {"type": "string"}
_TIME = {"type": "string", "format": "date-time"}
_STATUS = ["starting", "processing", "succeeded", "canceled", "failed"]


@dataclass(frozen=True, slots=True)
class _Words:
    """What Cog calls things in one mode."""

    noun: str
    verb: str
    prefix: str
    """Before `Input` and `Output`."""

    @property
    def path(self) -> str:
        return f"/{self.noun}s"

    def component(self, name: str) -> str:
        """Of a request or a response."""
        return f"{self.noun.capitalize()}{name}"


_WORDS: dict[Mode, _Words] = {
    "predict": _Words("prediction", "predict", ""),
    "train": _Words("training", "train", "Training"),
}


def openapi_document(runner: RunnerFile) -> dict[str, Any]:
    """The document Cog would build for `runner` alone."""
    words = _WORDS[runner.mode]
    signature = runner.signature()
    inputs, choices = _inputs(signature)
    input_name, output_name = f"{words.prefix}Input", f"{words.prefix}Output"
    request, response = words.component("Request"), words.component("Response")
    return {
        "openapi": "3.0.2",
        "info": {"title": "Cog", "version": cog.__version__},
        "paths": _paths(words),
        "components": {
            "schemas": {
                input_name: {"title": input_name} | inputs,
                output_name: {"title": "Output"} | _output(signature.return_annotation),
                **choices,
                request: _object(request, {"id": _STRING, "input": _ref(input_name)}),
                response: _object(
                    response,
                    {
                        "input": _ref(input_name),
                        "output": _ref(output_name),
                        **dict.fromkeys(("id", "version"), _STRING),
                        **dict.fromkeys(("created_at", "started_at", "completed_at"), _TIME),
                        **dict.fromkeys(("status", "error", "logs"), _STRING),
                        "metrics": {"type": "object"},
                    },
                ),
                "Status": _enumeration("Status", _STATUS, "string"),
                **_validation_errors(),
            }
        },
    }


def input_schema(document: dict[str, Any], mode: Mode = "predict") -> dict[str, Any]:
    """The JSON schema of all inputs, from an OpenAPI document of Cog's."""
    schema: dict[str, Any] = document["components"]["schemas"][f"{_WORDS[mode].prefix}Input"]
    return schema


def input_properties(document: dict[str, Any], mode: Mode = "predict") -> dict[str, dict[str, Any]]:
    """The JSON schema of every input, by name; where it has choices, with the type of these."""
    properties: dict[str, dict[str, Any]] = input_schema(document, mode)["properties"]
    return {
        name: _type_of_choices(document, schema) | schema for name, schema in properties.items()
    }


def _type_of_choices(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The type that the schema of an input says elsewhere: in the enumeration it refers to."""
    for reference in (part["$ref"] for part in schema.get("allOf", []) if "$ref" in part):
        enumeration = document["components"]["schemas"][reference.rpartition("/")[2]]
        return {"type": enumeration["type"]} if "type" in enumeration else {}
    return {}


def _inputs(signature: inspect.Signature) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schema of the inputs, and one schema for each input that has choices."""
    properties: dict[str, Any] = {}
    required: list[str] = []
    enumerations: dict[str, Any] = {}
    for order, parameter in enumerate(p for p in signature.parameters.values() if p.name != "self"):
        name = parameter.name
        field = _field(parameter)
        json_type, nullable = _json_type(parameter.annotation)
        schema: dict[str, Any] = {"x-order": order}
        if field.choices:
            enumerations[name] = _enumeration(name, list(field.choices), json_type["type"])
            schema["allOf"] = [_ref(name)]
        else:
            schema |= {"title": _title(name)} | json_type
        if nullable:
            schema["nullable"] = True
        if field.default is not None or nullable:
            schema["default"] = _number(field.default)
        else:
            required.append(name)
        if field.description is not None:
            schema["description"] = field.description
        for attribute, keyword in _LIMITS.items():
            if (limit := getattr(field, attribute)) is not None:
                schema[keyword] = _number(limit)
        properties[name] = schema
    inputs: dict[str, Any] = {"type": "object", "properties": properties}
    return inputs | ({"required": required} if required else {}), enumerations


def _output(annotation: Any) -> dict[str, Any]:
    """The schema of a single output, or of a model with named ones."""
    if annotation in _JSON_TYPES:
        return {**_JSON_TYPES[annotation]}
    fields = {name: _json_type(kind) for name, kind in typing.get_type_hints(annotation).items()}
    properties = {
        name: json_type | ({"nullable": True} if nullable else {}) | {"title": _title(name)}
        for name, (json_type, nullable) in fields.items()
    }
    required = [name for name, (_, nullable) in fields.items() if not nullable]
    return {"type": "object", "properties": properties} | (
        {"required": required} if required else {}
    )


def _field(parameter: inspect.Parameter) -> Any:
    if isinstance(parameter.default, FieldInfo):
        return parameter.default
    return FieldInfo(default=None if parameter.default is parameter.empty else parameter.default)


def _json_type(annotation: Any) -> tuple[dict[str, str], bool]:
    """The JSON type of an annotation, and whether it is Optional."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        (inner,) = (a for a in typing.get_args(annotation) if a is not types.NoneType)
        return _JSON_TYPES[inner], True
    return _JSON_TYPES[annotation], False


def _number(value: Any) -> Any:
    """Go writes 6.0 as 6."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _title(name: str) -> str:
    return " ".join(word.capitalize() for word in name.split("_"))


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(title: str, properties: dict[str, dict[str, Any]]) -> dict[str, Any]:
    titled = {
        name: schema if "$ref" in schema else {"title": _title(name)} | schema
        for name, schema in properties.items()
    }
    return {"title": title, "type": "object", "properties": titled}


def _enumeration(title: str, values: list[Any], json_type: str) -> dict[str, Any]:
    return {
        "title": title,
        "description": "An enumeration.",
        "enum": values,
        "type": json_type,
    }


def _validation_errors() -> dict[str, Any]:
    location = {"type": "array", "items": {"anyOf": [_STRING, {"type": "integer"}]}}
    error = _object(
        "ValidationError",
        {
            "loc": {"title": "Location"} | location,
            "msg": {"title": "Message"} | _STRING,
            "type": {"title": "Error Type"} | _STRING,
        },
    )
    details = {"type": "array", "items": _ref("ValidationError")}
    return {
        "HTTPValidationError": _object("HTTPValidationError", {"detail": details}),
        "ValidationError": error | {"required": ["loc", "msg", "type"]},
    }


def _paths(words: _Words) -> dict[str, Any]:
    noun, identity = words.noun, f"{words.noun}_id"
    invalid = {"422": _response("Validation Error", _ref("HTTPValidationError"))}
    anything = {"200": _response("Successful Response", {})}
    return {
        "/": {"get": {"summary": "Root", "operationId": "root__get", "responses": anything}},
        "/health-check": {
            "get": {
                "summary": "Healthcheck",
                "operationId": "healthcheck_health_check_get",
                "responses": anything,
            }
        },
        words.path: {
            "post": {
                "summary": words.verb.capitalize(),
                "description": f"Run a single {noun} on the model",
                "operationId": f"{words.verb}_{noun}s_post",
                "requestBody": {"content": _json_content(_ref(words.component("Request")))},
                "responses": {
                    "200": _response("Successful Response", _ref(words.component("Response")))
                }
                | invalid,
            }
        },
        f"{words.path}/{{{identity}}}/cancel": {
            "post": {
                "summary": "Cancel",
                "operationId": f"cancel_{noun}s__{identity}__cancel_post",
                "parameters": [
                    {
                        "required": True,
                        "schema": {"title": _title(identity)} | _STRING,
                        "name": identity,
                        "in": "path",
                    }
                ],
                "responses": anything | invalid,
            }
        },
    }


def _response(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": _json_content(schema)}


def _json_content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
