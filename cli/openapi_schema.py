"""The OpenAPI document that Cog's server validates requests with.

`cog build` makes it with a static parser; without Docker we make the same from the signature. The
server reads it from `.cog/openapi_schema.json` in its working directory.
"""

import inspect
import types
import typing
from typing import Any

import cog
from cog import FieldInfo

from cli.runners import RunnerFile

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


def openapi_document(runner: RunnerFile) -> dict[str, Any]:
    """The document Cog would build for `runner`."""
    signature = runner.run_signature()
    inputs, choices = _inputs(signature)
    return {
        "openapi": "3.0.2",
        "info": {"title": "Cog", "version": cog.__version__},
        "paths": _paths(),
        "components": {
            "schemas": {
                "Input": inputs,
                "Output": {"title": "Output"} | _JSON_TYPES[signature.return_annotation],
                **choices,
                "PredictionRequest": _object(
                    "PredictionRequest", {"id": _STRING, "input": _ref("Input")}
                ),
                "PredictionResponse": _object(
                    "PredictionResponse",
                    {
                        "input": _ref("Input"),
                        "output": _ref("Output"),
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


def input_properties(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The JSON schema of every input, by name, from an OpenAPI document of Cog's."""
    properties: dict[str, dict[str, Any]] = document["components"]["schemas"]["Input"]["properties"]
    return properties


def _inputs(signature: inspect.Signature) -> tuple[dict[str, Any], dict[str, Any]]:
    """The Input schema, and one schema for each input that has choices."""
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
    inputs: dict[str, Any] = {"title": "Input", "type": "object", "properties": properties}
    return inputs | ({"required": required} if required else {}), enumerations


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


def _paths() -> dict[str, Any]:
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
        "/predictions": {
            "post": {
                "summary": "Predict",
                "description": "Run a single prediction on the model",
                "operationId": "predict_predictions_post",
                "requestBody": {"content": _json_content(_ref("PredictionRequest"))},
                "responses": {"200": _response("Successful Response", _ref("PredictionResponse"))}
                | invalid,
            }
        },
        "/predictions/{prediction_id}/cancel": {
            "post": {
                "summary": "Cancel",
                "operationId": "cancel_predictions__prediction_id__cancel_post",
                "parameters": [
                    {
                        "required": True,
                        "schema": {"title": "Prediction Id"} | _STRING,
                        "name": "prediction_id",
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
