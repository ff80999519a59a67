// Every handler of execd and every room; the table is in routes.c. A block for each file.
#ifndef EXECD_HANDLERS_H
#define EXECD_HANDLERS_H

#include "execd/execd.h"

bool auth_before(struct http_exchange *x); // auth.c: the server's before() hook

// routes.c
void handle_ping(struct http_exchange *x);
void handle_no_code(struct http_exchange *x);      // code contexts
void handle_no_isolation(struct http_exchange *x); // isolated sessions
void handle_isolation_abilities(struct http_exchange *x);

// environment.c
void handle_environment(struct http_exchange *x);

// capture.c
int capture_room_start(struct execd *e, struct error *err);
void capture_room_stop(struct execd *e);

// hooks/hooks.c
void handle_start(struct http_exchange *x);
void hooks_room_stop(struct execd *e);

// command.c
void handle_command(struct http_exchange *x);
void handle_interrupt(struct http_exchange *x); // also DELETE /code
void handle_command_status(struct http_exchange *x);
void handle_command_logs(struct http_exchange *x);
int command_interrupt(struct execd *e, const char *id, struct error *err);
int command_room_start(struct execd *e, struct error *err);
void command_room_stop(struct execd *e);

// files/files.c
void handle_files_info(struct http_exchange *x);
void handle_files_delete(struct http_exchange *x);
void handle_files_mv(struct http_exchange *x);
void handle_files_permissions(struct http_exchange *x);
void handle_directories_make(struct http_exchange *x);
void handle_directories_delete(struct http_exchange *x);
void handle_directories_list(struct http_exchange *x);
// files/search.c
void handle_files_search(struct http_exchange *x);
void handle_files_replace(struct http_exchange *x);
// files/upload.c, files/download.c
void handle_files_upload(struct http_exchange *x);
void handle_files_download(struct http_exchange *x);
// shell/session.c
void handle_session_create(struct http_exchange *x);
void handle_session_run(struct http_exchange *x);
void handle_session_delete(struct http_exchange *x);
int session_interrupt(struct execd *e, const char *id, struct error *err);
void session_room_stop(struct execd *e);

// shell/pty.c, shell/pty_client.c
void handle_pty_create(struct http_exchange *x);
void handle_pty_get(struct http_exchange *x);
void handle_pty_delete(struct http_exchange *x);
void handle_pty_ws(struct http_exchange *x);
void pty_room_stop(struct execd *e);

// proxy.c
void handle_proxy(struct http_exchange *x);
void handle_proxy_no_port(struct http_exchange *x);
int proxy_room_start(struct execd *e, struct error *err);
void proxy_room_stop(struct execd *e);

// files/watch.c
void handle_files_watch(struct http_exchange *x);

// metrics/metrics.c
void handle_metrics(struct http_exchange *x);
void handle_metrics_watch(struct http_exchange *x);
int metrics_room_start(struct execd *e, struct error *err);

#endif
