// A query, a mutation, what the cache makes of it, and mistakes: node work.mjs CLIENT URL
// Prints what each gave as one JSON object.
import { CLIENTS } from "./clients.mjs";

const [name, url] = process.argv.slice(2);
const client = CLIENTS[name](url);
const BOOK = "query Book { book(id: 1) { __typename id title } }";
const RENAME =
  "mutation ($title: String!) { renameBook(id: 1, title: $title) { __typename id title } }";

const failed = (problem) => {
  const errors = problem?.errors ?? problem?.graphQLErrors ?? problem ?? [];
  return Array.isArray(errors) ? errors.map(({ extensions }) => extensions?.code) : String(errors);
};

const attempt = async (work) => {
  try {
    const { data, errors, error } = await work;
    return errors || error ? failed(errors ?? error) : data;
  } catch (problem) {
    return failed(problem);
  }
};

const report = { query: await attempt(client.query(BOOK)) };
report.invalid = await attempt(client.query("query { nope }"));
report.coercion = await attempt(
  client.query("query ($n: Int!) { times(number: $n) }", { n: "many" }),
);
if (client.mutate) {
  const seen = [];
  client.watch?.(BOOK, ({ data }) => data?.book && seen.push(data.book.title));
  report.mutation = await attempt(client.mutate(RENAME, { title: "Renamed" }));
  await new Promise((done) => setTimeout(done, 0));
  if (client.watch) report.watched = seen;
}
console.log(JSON.stringify(report));
process.exit();
