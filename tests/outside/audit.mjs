// Audits a server by the GraphQL over HTTP specification: node audit.mjs URL
// Prints one JSON object a line: {id, name, status, reason}.
import { auditServer } from "graphql-http";

const [url] = process.argv.slice(2);

for (const { id, name, status, reason } of await auditServer({ url, fetchFn: fetch })) {
  console.log(JSON.stringify({ id, name, status, reason }));
}
