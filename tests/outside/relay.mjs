// Writes what relay-compiler compiles into a folder: node relay.mjs SCHEMA DOCUMENTS FOLDER
//
// Relay wants each operation in a module of its name, and the module's name before those of its fragments. Beside
// the documents stands a fragment for each connection of the schema, by which Relay would page it in both directions
// and, where what has it is a Node, fetch it again. Prints the names of the modules as one JSON array.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { buildSchema, isNonNullType, isObjectType, parse, print, visit } from "graphql";

const [schemaPath, documentsPath, folder] = process.argv.slice(2);
const text = readFileSync(schemaPath, "utf8");
const schema = buildSchema(text);
const { definitions } = parse(readFileSync(documentsPath, "utf8"));
const capital = (name) => name[0].toUpperCase() + name.slice(1);

const fragments = new Map(
  definitions.filter(({ kind }) => kind === "FragmentDefinition").map((node) => [node.name.value, node]),
);

// An operation with the fragments that it spreads, each of them named for the module.
const moduleOf = (operation) => {
  const module = operation.name.value;
  const used = new Set();
  const renamed = (node) =>
    visit(node, {
      FragmentSpread: (spread) => {
        const name = spread.name.value;
        if (!used.has(name)) used.add(name);
        return { ...spread, name: { ...spread.name, value: `${module}_${name}` } };
      },
    });
  const named = (node, value) => print({ ...renamed(node), name: { ...node.name, value } });
  const texts = [named(operation, module + capital(operation.operation))];
  // A set goes on to what is added while it is walked.
  for (const name of used) texts.push(named(fragments.get(name), `${module}_${name}`));
  return [module, texts];
};

const connectionFields = Object.values(schema.getTypeMap())
  .filter((type) => isObjectType(type) && type !== schema.getSubscriptionType())
  .flatMap((type) => Object.values(type.getFields()).map((field) => ({ type, field })))
  .filter(({ field }) => String(field.type).endsWith("Connection"));

const pagingOf = ({ type, field }) => {
  const module = type.name + capital(field.name);
  const wanted = ["first", "after", "last", "before"];
  const args = field.args.filter((arg) => wanted.includes(arg.name) || isNonNullType(arg.type));
  const isFetchable = type === schema.getQueryType() || type.getInterfaces().some(({ name }) => name === "Node");
  const fetch = isFetchable ? `@refetchable(queryName: "${module}Query")` : "";
  const declared = args.map(({ name, type }) => `${name}: {type: "${type}"}`).join(", ");
  const given = args.map(({ name }) => `${name}: $${name}`).join(", ");
  const fragment = `fragment ${module}_list on ${type.name} ${fetch} @argumentDefinitions(${declared}) {
  ${field.name}(${given}) @connection(key: "${module}_${field.name}") { edges { node { __typename } } }
}`;
  return [module, [fragment]];
};

const modules = [
  ...definitions.filter(({ kind }) => kind === "OperationDefinition").map(moduleOf),
  ...connectionFields.map(pagingOf),
];
mkdirSync(join(folder, "modules"), { recursive: true });
for (const [name, texts] of modules) {
  writeFileSync(join(folder, "modules", `${name}.ts`), texts.map((text) => `graphql\`\n${text}\n\`;\n`).join("\n"));
}
writeFileSync(join(folder, "schema.graphql"), text);
const config = {
  src: "./modules",
  schema: "./schema.graphql",
  language: "typescript",
  artifactDirectory: "./artifacts",
  requireCustomScalarTypes: true,
  // A document that is not written for Relay spreads fragments without @alias.
  featureFlags: { enforce_fragment_alias_where_ambiguous: { kind: "disabled" } },
  customScalarTypes: { ByteSize: "number", DateTime: "string", EventCursor: "string", URL: "string" },
};
mkdirSync(join(folder, "artifacts"), { recursive: true });
writeFileSync(join(folder, "relay.config.json"), JSON.stringify(config));
console.log(JSON.stringify(modules.map(([name]) => name)));
