// Pages of lists: `page` and `pageSize` of the query, and `pagination` of the reply
// (lifecycle-api.md 4.3). Loop thread.
#ifndef SERVER_API_PAGING_H
#define SERVER_API_PAGING_H

#include "server/api/fields.h"

struct page {
    struct url_pair *pairs; // the whole query
    long count;
    int64_t number, size; // asked for
    int64_t seen;         // matching items so far
    struct strbuf text;   // the reply, as far as it is written; page_reply() frees it
};
// Reads the query. -1: the exchange is over (400 or 422).
int page_read(struct http_exchange *x, struct page *p);
// One more item matches: where its JSON is written to. NULL when it is not of this page.
struct strbuf *page_item(struct page *p);
void page_reply(struct http_exchange *x, struct page *p); // ends the exchange

#endif
