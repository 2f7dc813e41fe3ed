"""Checks a value against the few words of JSON schema that the answers' schemas use."""


def fits(value, schema) -> bool:
    if 'enum' in schema:
        return value in schema['enum']
    if schema['type'] == 'object':
        known = schema['properties']
        return (
            isinstance(value, dict)
            and set(schema['required']) <= set(value) <= set(known)
            and all(fits(entry, known[name]) for name, entry in value.items())
        )
    if schema['type'] == 'array':
        bounds = (
            schema.get('minItems', 0),
            schema.get('maxItems', len(value) if isinstance(value, list) else 0),
        )
        return (
            isinstance(value, list)
            and bounds[0] <= len(value) <= bounds[1]
            and all(fits(entry, schema['items']) for entry in value)
        )
    if schema['type'] == 'number':
        return isinstance(value, int | float) and schema['minimum'] <= value <= schema['maximum']
    return isinstance(value, str)
