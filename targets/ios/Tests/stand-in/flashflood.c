// A stand-in for the library: the same functions, an answer of numbered words, and counts of what is not freed.
#include "flashflood.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct flashflood_engine {
    int unused;
};
struct flashflood_session {
    atomic_int answering, cancelled, suspended;
};

static atomic_int engines, sessions, strings, tokens;

static char *give(const char *text) {
    strings++;
    return strdup(text);
}

#define PLAN                                                                                                           \
    "{\"resident\":1,\"experts\":2,\"slots\":1,\"slot_bytes\":2,\"all_slots\":4,\"kv\":3,\"context\":8,\"state\":0,"   \
    "\"activations\":0,\"chunk\":1,\"available\":99}"

const char *flashflood_version(void) { return "0.0.0"; }

void flashflood_string_free(char *string) {
    if (string) strings--;
    free(string);
}

char *flashflood_memory_plan(const char *options, char **error) { return give(PLAN); }

flashflood_engine *flashflood_engine_open(const char *options, char **error) {
    if (strstr(options, "nowhere")) {
        *error = give("/nowhere: no such folder (hint: flashflood pull)");
        return NULL;
    }
    engines++;
    return calloc(1, sizeof(flashflood_engine));
}

char *flashflood_engine_describe(const flashflood_engine *engine, char **error) {
    return give("{\"model\":null,\"device\":\"stand-in\",\"context\":8,\"memory\":" PLAN "}");
}

void flashflood_engine_close(flashflood_engine *engine) {
    engines--;
    free(engine);
}

flashflood_session *flashflood_session_new(flashflood_engine *engine, char **error) {
    sessions++;
    return calloc(1, sizeof(flashflood_session));
}

int flashflood_session_send(flashflood_session *session, const char *request, flashflood_event event, void *context,
                            char **error) {
    if (session->answering) {
        *error = give("this session is answering already");
        return -1;
    }
    session->answering = 1;
    session->cancelled = 0;
    const char *most = strstr(request, "\"max_tokens\":");
    int count = most ? atoi(most + strlen("\"max_tokens\":")) : 10;
    char json[200];
    event(context, "{\"type\":\"prefill\",\"done\":0,\"total\":3}");
    for (int i = 0; i < count && !session->cancelled; i++) {
        if (session->suspended) {
            event(context, "{\"type\":\"suspended\",\"reason\":\"host\"}");
            while (session->suspended && !session->cancelled) usleep(1000);
            event(context, "{\"type\":\"resumed\"}");
        }
        tokens++;
        usleep(1000);
        snprintf(json, sizeof json, "{\"type\":\"text\",\"text\":\"w%d \"}", i);
        event(context, json);
    }
    const char *finish = session->cancelled ? "cancelled" : "length";
    snprintf(json, sizeof json, "{\"type\":\"done\",\"finish\":\"%s\",\"statistics\":null}", finish);
    event(context, json);
    session->answering = 0;
    return 0;
}

void flashflood_session_cancel(flashflood_session *session) {
    if (session->answering) session->cancelled = 1;
}

void flashflood_session_suspend(flashflood_session *session) { session->suspended = 1; }

void flashflood_session_resume(flashflood_session *session) { session->suspended = 0; }

int flashflood_session_save(flashflood_session *session, const char *folder, char **error) {
    if (!strstr(folder, "full")) return 0;
    *error = give("the disk is full");
    return -1;
}

int flashflood_session_restore(flashflood_session *session, const char *folder, const char *request, char **error) {
    return 0;
}

// As the library does it, memory goes with the engine; this one keeps it.
void flashflood_session_close(flashflood_session *session) { sessions--; }

char *flashflood_check(const char *options, char **error) { return give("{\"ok\":true}"); }

// What is open, and the tokens that were made.
int stand_in_left(void) { return engines * 1000000 + sessions * 1000 + strings; }
int stand_in_tokens(void) { return tokens; }
