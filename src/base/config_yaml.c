/* SPDX-License-Identifier: MIT
 *
 * YAML as a flat list, from libyaml's events. */
#include "base/config_yaml.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include <yaml.h>

#include "base/text.h"

enum { PATH_BYTES = 256, DEEPEST = 8 };

struct reader {
    yaml_parser_t parser;
    const char *text, *name;
    size_t bytes;
    struct entries *entries;
    struct error *error;
};

static int line_of(const yaml_event_t *event)
{
    return (int)event->start_mark.line + 1;
}

static int refuse(const struct reader *reader, int line, const char *path, const char *what)
{
    char quoted[SHOWN_TEXT];
    return error_set(reader->error, STATUS_USAGE, "%s:%d: %s%s%s", reader->name, line, shown(path, quoted), *path ? ": " : "",
                     what);
}

/* True when line `line` (from 1) is indented with a tab, which YAML forbids and libyaml reports in riddles. */
static bool tab_indents(const struct reader *reader, int line)
{
    const char *p = reader->text, *end = p + reader->bytes;
    for (int i = 1; i < line && p < end; i++) {
        const char *newline = memchr(p, '\n', (size_t)(end - p));
        p = newline ? newline + 1 : end;
    }
    while (p < end && *p == ' ') p++;
    return p < end && *p == '\t';
}

/* What the parser stumbled over, on one line. */
static int syntax_error(const struct reader *reader)
{
    const yaml_parser_t *parser = &reader->parser;
    CHECK(parser->error != YAML_MEMORY_ERROR, "out of memory reading %s", reader->name);
    const char *problem = parser->problem ? parser->problem : "unknown problem";
    int line = (int)parser->problem_mark.line + 1;
    if (parser->error == YAML_READER_ERROR) { /* bytes that are no text: there is an offset instead of a mark */
        line = 1;
        for (size_t i = 0; i < parser->problem_offset && i < reader->bytes; i++) line += reader->text[i] == '\n';
        return error_set(reader->error, STATUS_USAGE, "%s:%d: this is not a text file: %s", reader->name, line, problem);
    }
    return error_set(reader->error, STATUS_USAGE, "%s:%d: not valid YAML: %s%s%s%s", reader->name, line,
                     parser->context ? parser->context : "", parser->context ? ", " : "", problem,
                     tab_indents(reader, line) ? " (indent with spaces, not tabs)" : "");
}

/* The next event, at or below `path`; the caller deletes it when this returns STATUS_OK. */
static int next_event(struct reader *reader, const char *path, yaml_event_t *event)
{
    if (!yaml_parser_parse(&reader->parser, event)) return syntax_error(reader);
    const yaml_char_t *anchor = NULL, *tag = NULL;
    const char *wrong = NULL;
    if (event->type == YAML_SCALAR_EVENT) {
        anchor = event->data.scalar.anchor;
        tag = event->data.scalar.tag;
        if (strlen((const char *)event->data.scalar.value) != event->data.scalar.length) wrong = "a value holds a zero byte";
    } else if (event->type == YAML_MAPPING_START_EVENT) {
        anchor = event->data.mapping_start.anchor;
        tag = event->data.mapping_start.tag;
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        wrong = "a list stands here, but no key takes a list; write one \"key: value\" a line";
    } else if (event->type == YAML_ALIAS_EVENT) {
        wrong = "an alias (*name) stands here; write the value itself";
    }
    if (anchor) wrong = "an anchor (&name) stands here; write the value itself wherever it is needed";
    if (tag) wrong = "a tag (!name) stands here; write the value without it";
    if (!wrong) return STATUS_OK;
    int line = line_of(event);
    yaml_event_delete(event);
    return refuse(reader, line, path, wrong);
}

static bool is_null(const yaml_event_t *event)
{
    const char *value = (const char *)event->data.scalar.value;
    if (event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE) return false;
    return !*value || strcmp(value, "~") == 0 || strcasecmp(value, "null") == 0;
}

static int read_map(struct reader *reader, const char *prefix, int depth);

/* One `key: value` whose key event has been read. */
static int read_pair(struct reader *reader, const yaml_event_t *key, const char *prefix, int depth)
{
    int line = line_of(key);
    if (key->type != YAML_SCALAR_EVENT) return refuse(reader, line, prefix, "a key must be a word, not a map");
    const char *word = (const char *)key->data.scalar.value;
    char path[PATH_BYTES], quoted[SHOWN_TEXT];
    int length = snprintf(path, sizeof path, "%s%s%s", prefix, *prefix ? "." : "", word);
    if (length < 0 || length >= PATH_BYTES)
        return error_set(reader->error, STATUS_USAGE, "%s:%d: unknown key \"%s\"", reader->name, line, shown(word, quoted));
    yaml_event_t value;
    if (next_event(reader, path, &value) != STATUS_OK) return reader->error->status;
    int status = STATUS_OK;
    if (value.type == YAML_MAPPING_START_EVENT) {
        entries_add(reader->entries, path, NULL, true, line);
        status = read_map(reader, path, depth + 1);
    } else {
        entries_add(reader->entries, path, is_null(&value) ? NULL : (const char *)value.data.scalar.value, false, line);
    }
    yaml_event_delete(&value);
    return status;
}

/* The pairs of a map whose start has been read, and its end. */
static int read_map(struct reader *reader, const char *prefix, int depth)
{
    for (;;) {
        yaml_event_t event;
        if (next_event(reader, prefix, &event) != STATUS_OK) return reader->error->status;
        bool end = event.type == YAML_MAPPING_END_EVENT;
        int status = STATUS_OK;
        if (!end && depth >= DEEPEST)
            status = refuse(reader, line_of(&event), prefix, "maps are nested too deep for a config");
        else if (!end)
            status = read_pair(reader, &event, prefix, depth);
        yaml_event_delete(&event);
        if (end || status != STATUS_OK) return status;
    }
}

static int read_stream(struct reader *reader)
{
    int documents = 0;
    for (;;) {
        yaml_event_t event;
        if (next_event(reader, "", &event) != STATUS_OK) return reader->error->status;
        yaml_event_type_t type = event.type;
        int status = STATUS_OK;
        if (type == YAML_DOCUMENT_START_EVENT && documents++)
            status = refuse(reader, line_of(&event), "", "a second document (---) starts here; a config is one document");
        else if (type == YAML_SCALAR_EVENT && !is_null(&event))
            status =
                refuse(reader, line_of(&event), "", "a config is a map: write \"key: value\" (with a blank after the colon)");
        else if (type == YAML_MAPPING_START_EVENT)
            status = read_map(reader, "", 0);
        yaml_event_delete(&event);
        if (type == YAML_STREAM_END_EVENT || status != STATUS_OK) return status;
    }
}

int entries_read(struct entries *entries, const char *text, size_t bytes, const char *name, struct error *error)
{
    struct reader reader = {.text = text, .name = name, .bytes = bytes, .entries = entries, .error = error};
    CHECK(yaml_parser_initialize(&reader.parser), "out of memory reading %s", name);
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)text, bytes);
    int status = read_stream(&reader);
    yaml_parser_delete(&reader.parser);
    return status;
}
