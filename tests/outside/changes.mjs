// Breaking changes from one schema to another, by @graphql-inspector: node changes.mjs OLD NEW
// Prints them as one JSON object: the message, by the place in the schema.
import { readFileSync } from "node:fs";
import { CriticalityLevel, diff } from "@graphql-inspector/core";
import { buildSchema } from "graphql";

const [before, after] = process.argv.slice(2).map((path) => buildSchema(readFileSync(path, "utf8")));

const changes = await diff(before, after);
const breaking = changes.filter(({ criticality }) => criticality.level === CriticalityLevel.Breaking);
console.log(JSON.stringify(Object.fromEntries(breaking.map(({ path, message }) => [path, message]))));
