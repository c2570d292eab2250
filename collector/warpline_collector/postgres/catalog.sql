-- The part of PostgreSQL's own catalog that its clients look into: which tables and columns there are, and of which types.
-- Filled in Python with the tables that the caller may see; what warpline has none of (indexes, triggers, roles) stays empty.
CREATE SCHEMA catalog;
CREATE SCHEMA infoschema;
SET search_path = 'catalog,main';

CREATE TYPE name AS VARCHAR;
CREATE TYPE regclass AS BIGINT;
CREATE TYPE regtype AS BIGINT;
CREATE TYPE regproc AS BIGINT;
CREATE TYPE regnamespace AS BIGINT;
CREATE TYPE xid AS BIGINT;
CREATE TYPE cid AS BIGINT;
CREATE TYPE jsonb AS VARCHAR;
CREATE TYPE pg_node_tree AS VARCHAR;
CREATE TYPE information_schema_sql AS VARCHAR;

CREATE TABLE pg_namespace (oid BIGINT, nspname VARCHAR, nspowner BIGINT, nspacl VARCHAR[]);
CREATE TABLE pg_class (
    oid BIGINT, relname VARCHAR, relnamespace BIGINT, reltype BIGINT, reloftype BIGINT, relowner BIGINT, relam BIGINT,
    relfilenode BIGINT, reltablespace BIGINT, relpages INTEGER, reltuples REAL, relallvisible INTEGER, reltoastrelid BIGINT,
    relhasindex BOOLEAN, relisshared BOOLEAN, relpersistence VARCHAR, relkind VARCHAR, relnatts SMALLINT, relchecks SMALLINT,
    relhasrules BOOLEAN, relhastriggers BOOLEAN, relhassubclass BOOLEAN, relrowsecurity BOOLEAN, relforcerowsecurity BOOLEAN,
    relispopulated BOOLEAN, relreplident VARCHAR, relispartition BOOLEAN, relrewrite BIGINT, relfrozenxid BIGINT,
    relminmxid BIGINT, relacl VARCHAR[], reloptions VARCHAR[], relpartbound VARCHAR, relhasoids BOOLEAN
);
CREATE TABLE pg_attribute (
    attrelid BIGINT, attname VARCHAR, atttypid BIGINT, attstattarget INTEGER, attlen SMALLINT, attnum SMALLINT, attndims INTEGER,
    attcacheoff INTEGER, atttypmod INTEGER, attbyval BOOLEAN, attstorage VARCHAR, attalign VARCHAR, attcompression VARCHAR,
    attnotnull BOOLEAN, atthasdef BOOLEAN, atthasmissing BOOLEAN, attidentity VARCHAR, attgenerated VARCHAR, attisdropped BOOLEAN,
    attislocal BOOLEAN, attinhcount INTEGER, attcollation BIGINT, attacl VARCHAR[], attoptions VARCHAR[], attfdwoptions VARCHAR[]
);
CREATE TABLE pg_type (
    oid BIGINT, typname VARCHAR, typnamespace BIGINT, typowner BIGINT, typlen SMALLINT, typbyval BOOLEAN, typtype VARCHAR,
    typcategory VARCHAR, typispreferred BOOLEAN, typisdefined BOOLEAN, typdelim VARCHAR, typrelid BIGINT, typsubscript VARCHAR,
    typelem BIGINT, typarray BIGINT, typinput VARCHAR, typoutput VARCHAR, typreceive VARCHAR, typsend VARCHAR, typmodin VARCHAR,
    typmodout VARCHAR, typalign VARCHAR, typstorage VARCHAR, typnotnull BOOLEAN, typbasetype BIGINT, typtypmod INTEGER,
    typndims INTEGER, typcollation BIGINT, typdefault VARCHAR, typacl VARCHAR[]
);
CREATE TABLE pg_description (objoid BIGINT, classoid BIGINT, objsubid INTEGER, description VARCHAR);
CREATE TABLE pg_shdescription (objoid BIGINT, classoid BIGINT, description VARCHAR);
CREATE TABLE pg_database (
    oid BIGINT, datname VARCHAR, datdba BIGINT, encoding INTEGER, datcollate VARCHAR, datctype VARCHAR, datlocprovider VARCHAR,
    daticulocale VARCHAR, datistemplate BOOLEAN, datallowconn BOOLEAN, datconnlimit INTEGER, datlastsysoid BIGINT,
    dattablespace BIGINT, datacl VARCHAR[]
);
CREATE TABLE pg_roles (
    oid BIGINT, rolname VARCHAR, rolsuper BOOLEAN, rolinherit BOOLEAN, rolcreaterole BOOLEAN, rolcreatedb BOOLEAN,
    rolcanlogin BOOLEAN, rolreplication BOOLEAN, rolconnlimit INTEGER, rolpassword VARCHAR, rolvaliduntil TIMESTAMPTZ,
    rolbypassrls BOOLEAN, rolconfig VARCHAR[]
);
CREATE TABLE pg_settings (
    name VARCHAR, setting VARCHAR, unit VARCHAR, category VARCHAR, short_desc VARCHAR, extra_desc VARCHAR, context VARCHAR,
    vartype VARCHAR, source VARCHAR, min_val VARCHAR, max_val VARCHAR, enumvals VARCHAR[], boot_val VARCHAR, reset_val VARCHAR
);
CREATE TABLE pg_am (oid BIGINT, amname VARCHAR, amhandler VARCHAR, amtype VARCHAR);
CREATE TABLE pg_tablespace (oid BIGINT, spcname VARCHAR, spcowner BIGINT, spcacl VARCHAR[], spcoptions VARCHAR[]);
CREATE TABLE pg_collation (oid BIGINT, collname VARCHAR, collnamespace BIGINT, collowner BIGINT, collprovider VARCHAR,
    collencoding INTEGER, collcollate VARCHAR, collctype VARCHAR);
CREATE TABLE pg_index (indexrelid BIGINT, indrelid BIGINT, indnatts SMALLINT, indnkeyatts SMALLINT, indisunique BOOLEAN,
    indisprimary BOOLEAN, indisexclusion BOOLEAN, indimmediate BOOLEAN, indisclustered BOOLEAN, indisvalid BOOLEAN,
    indisready BOOLEAN, indislive BOOLEAN, indisreplident BOOLEAN, indkey SMALLINT[], indcollation BIGINT[], indclass BIGINT[],
    indoption SMALLINT[], indexprs VARCHAR, indpred VARCHAR);
CREATE TABLE pg_constraint (oid BIGINT, conname VARCHAR, connamespace BIGINT, contype VARCHAR, condeferrable BOOLEAN,
    condeferred BOOLEAN, convalidated BOOLEAN, conrelid BIGINT, contypid BIGINT, conindid BIGINT, conparentid BIGINT,
    confrelid BIGINT, confupdtype VARCHAR, confdeltype VARCHAR, confmatchtype VARCHAR, conislocal BOOLEAN, coninhcount INTEGER,
    connoinherit BOOLEAN, conkey SMALLINT[], confkey SMALLINT[], conbin VARCHAR);
CREATE TABLE pg_attrdef (oid BIGINT, adrelid BIGINT, adnum SMALLINT, adbin VARCHAR);
CREATE TABLE pg_inherits (inhrelid BIGINT, inhparent BIGINT, inhseqno INTEGER, inhdetachpending BOOLEAN);
CREATE TABLE pg_partitioned_table (partrelid BIGINT, partstrat VARCHAR, partnatts SMALLINT, partdefid BIGINT, partexprs VARCHAR);
CREATE TABLE pg_trigger (oid BIGINT, tgrelid BIGINT, tgparentid BIGINT, tgname VARCHAR, tgfoid BIGINT, tgtype SMALLINT,
    tgenabled VARCHAR, tgisinternal BOOLEAN, tgconstrrelid BIGINT, tgconstrindid BIGINT, tgconstraint BIGINT);
CREATE TABLE pg_rewrite (oid BIGINT, rulename VARCHAR, ev_class BIGINT, ev_type VARCHAR, ev_enabled VARCHAR, is_instead BOOLEAN,
    ev_qual VARCHAR, ev_action VARCHAR);
CREATE TABLE pg_policy (oid BIGINT, polname VARCHAR, polrelid BIGINT, polcmd VARCHAR, polpermissive BOOLEAN, polroles BIGINT[],
    polqual VARCHAR, polwithcheck VARCHAR);
CREATE TABLE pg_statistic_ext (oid BIGINT, stxrelid BIGINT, stxname VARCHAR, stxnamespace BIGINT, stxowner BIGINT,
    stxstattarget INTEGER, stxkeys SMALLINT[], stxkind VARCHAR[], stxexprs VARCHAR);
CREATE TABLE pg_publication (oid BIGINT, pubname VARCHAR, pubowner BIGINT, puballtables BOOLEAN);
CREATE TABLE pg_publication_rel (oid BIGINT, prpubid BIGINT, prrelid BIGINT);
CREATE TABLE pg_foreign_table (ftrelid BIGINT, ftserver BIGINT, ftoptions VARCHAR[]);
CREATE TABLE pg_foreign_server (oid BIGINT, srvname VARCHAR, srvowner BIGINT, srvfdw BIGINT, srvoptions VARCHAR[]);
CREATE TABLE pg_extension (oid BIGINT, extname VARCHAR, extowner BIGINT, extnamespace BIGINT, extversion VARCHAR);
CREATE TABLE pg_depend (classid BIGINT, objid BIGINT, objsubid INTEGER, refclassid BIGINT, refobjid BIGINT, refobjsubid INTEGER,
    deptype VARCHAR);
CREATE TABLE pg_enum (oid BIGINT, enumtypid BIGINT, enumsortorder REAL, enumlabel VARCHAR);
CREATE TABLE pg_range (rngtypid BIGINT, rngsubtype BIGINT, rngmultitypid BIGINT);
CREATE TABLE pg_sequence (seqrelid BIGINT, seqtypid BIGINT, seqstart BIGINT, seqincrement BIGINT, seqmax BIGINT, seqmin BIGINT,
    seqcache BIGINT, seqcycle BOOLEAN);
CREATE TABLE pg_proc (oid BIGINT, proname VARCHAR, pronamespace BIGINT, proowner BIGINT, prolang BIGINT, prokind VARCHAR,
    provolatile VARCHAR, proparallel VARCHAR, prosecdef BOOLEAN, proretset BOOLEAN, prorettype BIGINT, pronargs SMALLINT,
    proargtypes BIGINT[], proargnames VARCHAR[], prosrc VARCHAR, proacl VARCHAR[]);
CREATE TABLE pg_language (oid BIGINT, lanname VARCHAR, lanowner BIGINT, lanpltrusted BOOLEAN);
CREATE TABLE pg_auth_members (roleid BIGINT, member BIGINT, grantor BIGINT, admin_option BOOLEAN);
CREATE TABLE pg_db_role_setting (setdatabase BIGINT, setrole BIGINT, setconfig VARCHAR[]);
CREATE TABLE pg_matviews (schemaname VARCHAR, matviewname VARCHAR, matviewowner VARCHAR, definition VARCHAR);
CREATE TABLE pg_indexes (schemaname VARCHAR, tablename VARCHAR, indexname VARCHAR, tablespace VARCHAR, indexdef VARCHAR);
CREATE TABLE pg_stat_activity (datid BIGINT, datname VARCHAR, pid INTEGER, usename VARCHAR, application_name VARCHAR,
    state VARCHAR, query VARCHAR);
CREATE TABLE pg_timezone_names (name VARCHAR, abbrev VARCHAR, utc_offset INTERVAL, is_dst BOOLEAN);
CREATE VIEW pg_authid AS SELECT * FROM pg_roles;
CREATE VIEW pg_user AS SELECT rolname AS usename, oid AS usesysid, rolcreatedb AS usecreatedb, rolsuper AS usesuper FROM pg_roles;
CREATE VIEW pg_tables AS
SELECT n.nspname AS schemaname, c.relname AS tablename, 'warpline' AS tableowner, CAST(NULL AS VARCHAR) AS tablespace,
    false AS hasindexes, false AS hasrules, false AS hastriggers, false AS rowsecurity
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r';
CREATE VIEW pg_views AS
SELECT n.nspname AS schemaname, c.relname AS viewname, 'warpline' AS viewowner, CAST(NULL AS VARCHAR) AS definition
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'v';

CREATE MACRO version() AS 'PostgreSQL 14.0 (warpline)';
CREATE MACRO current_database() AS 'warpline';
CREATE MACRO current_catalog() AS 'warpline';
CREATE MACRO current_schema() AS 'public';
CREATE MACRO current_schemas(implicit) AS ['pg_catalog', 'public'];
CREATE MACRO current_user() AS 'warpline';
CREATE MACRO session_user() AS 'warpline';
CREATE MACRO user() AS 'warpline';
CREATE MACRO current_role() AS 'warpline';
CREATE MACRO current_setting(setting_name) AS
    (SELECT s.setting FROM pg_settings s WHERE s.name = lower(setting_name)),
    (setting_name, missing) AS (SELECT s.setting FROM pg_settings s WHERE s.name = lower(setting_name));
CREATE MACRO set_config(setting_name, wanted, within) AS wanted;
CREATE MACRO pg_get_userbyid(role) AS 'warpline';
CREATE MACRO pg_table_is_visible(relation) AS true;
CREATE MACRO pg_type_is_visible(type) AS true;
CREATE MACRO pg_function_is_visible(called) AS true;
CREATE MACRO pg_collation_is_visible(collation_oid) AS true;
CREATE MACRO pg_relation_is_publishable(relation) AS false;
CREATE MACRO pg_encoding_to_char(encoding) AS 'UTF8';
CREATE MACRO pg_char_to_encoding(encoding) AS 6;
CREATE MACRO pg_is_in_recovery() AS false;
CREATE MACRO pg_my_temp_schema() AS 0;
CREATE MACRO pg_is_other_temp_schema(schema_oid) AS false;
CREATE MACRO pg_advisory_unlock_all() AS CAST(NULL AS VARCHAR);
CREATE MACRO pg_postmaster_start_time() AS CAST(NULL AS TIMESTAMPTZ);
CREATE MACRO inet_server_addr() AS CAST(NULL AS VARCHAR);
CREATE MACRO inet_server_port() AS CAST(NULL AS INTEGER);
CREATE MACRO inet_client_addr() AS CAST(NULL AS VARCHAR);
CREATE MACRO pg_backend_pid() AS 0;
CREATE MACRO txid_current() AS 1;
CREATE MACRO quote_ident(word) AS
    CASE WHEN regexp_full_match(word, '[a-z_][a-z0-9_]*') THEN word ELSE '"' || replace(word, '"', '""') || '"' END;
CREATE MACRO parse_ident(word) AS string_split(replace(word, '"', ''), '.');
CREATE MACRO array_remove(list, word) AS list_filter(list, lambda each: each <> word);
CREATE MACRO array_lower(list, dimension) AS CASE WHEN len(list) > 0 THEN 1 END;
CREATE MACRO array_upper(list, dimension) AS nullif(len(list), 0);
CREATE MACRO obj_description(object) AS
    (SELECT max(d.description) FROM pg_description d WHERE d.objoid = object AND d.objsubid = 0),
    (object, class) AS (SELECT max(d.description) FROM pg_description d WHERE d.objoid = object AND d.objsubid = 0);
CREATE MACRO col_description(relation, place) AS
    (SELECT max(d.description) FROM pg_description d WHERE d.objoid = relation AND d.objsubid = place);
CREATE MACRO shobj_description(object, class) AS CAST(NULL AS VARCHAR);
CREATE MACRO format_type(type, modifier) AS (SELECT max(coalesce(t.typdefault, t.typname)) FROM pg_type t WHERE t.oid = type);
CREATE MACRO to_regclass(relation) AS (SELECT max(c.oid) FROM pg_class c WHERE c.relname = regexp_extract(relation, '[^.]*$'));
CREATE MACRO to_regtype(type) AS (SELECT max(t.oid) FROM pg_type t WHERE t.typname = type);
CREATE MACRO pg_get_expr(expression, relation) AS CAST(NULL AS VARCHAR), (expression, relation, pretty) AS CAST(NULL AS VARCHAR);
CREATE MACRO pg_get_viewdef(relation) AS CAST(NULL AS VARCHAR), (relation, pretty) AS CAST(NULL AS VARCHAR);
CREATE MACRO pg_get_indexdef(relation) AS CAST(NULL AS VARCHAR), (relation, place, pretty) AS CAST(NULL AS VARCHAR);
CREATE MACRO pg_get_constraintdef(item) AS CAST(NULL AS VARCHAR), (item, pretty) AS CAST(NULL AS VARCHAR);
CREATE MACRO pg_get_triggerdef(item) AS CAST(NULL AS VARCHAR), (item, pretty) AS CAST(NULL AS VARCHAR);
CREATE MACRO pg_get_ruledef(item) AS CAST(NULL AS VARCHAR), (item, pretty) AS CAST(NULL AS VARCHAR);
CREATE MACRO pg_get_partkeydef(relation) AS CAST(NULL AS VARCHAR);
CREATE MACRO pg_get_statisticsobjdef_columns(item) AS CAST(NULL AS VARCHAR);
CREATE MACRO pg_get_function_result(called) AS CAST(NULL AS VARCHAR);
CREATE MACRO pg_get_function_arguments(called) AS CAST(NULL AS VARCHAR);
CREATE MACRO pg_get_function_identity_arguments(called) AS CAST(NULL AS VARCHAR);
CREATE MACRO pg_get_serial_sequence(relation, place) AS CAST(NULL AS VARCHAR);
CREATE MACRO pg_tablespace_location(space) AS '';
CREATE MACRO pg_relation_size(relation) AS 0, (relation, fork) AS 0;
CREATE MACRO pg_total_relation_size(relation) AS 0;
CREATE MACRO pg_table_size(relation) AS 0;
CREATE MACRO pg_indexes_size(relation) AS 0;
CREATE MACRO pg_database_size(database) AS 0;
CREATE MACRO pg_size_pretty(bytes) AS bytes || ' bytes';
CREATE MACRO pg_stat_get_numscans(relation) AS 0;
CREATE MACRO has_table_privilege(relation, act) AS act ILIKE '%select%', (role, relation, act) AS act ILIKE '%select%';
CREATE MACRO has_column_privilege(relation, place, act) AS act ILIKE '%select%';
CREATE MACRO has_any_column_privilege(relation, act) AS act ILIKE '%select%';
CREATE MACRO has_schema_privilege(schema_oid, act) AS act ILIKE '%usage%', (role, schema_oid, act) AS act ILIKE '%usage%';
CREATE MACRO has_database_privilege(database, act) AS act ILIKE '%connect%', (role, database, act) AS act ILIKE '%connect%';
CREATE MACRO has_function_privilege(called, act) AS true;
CREATE MACRO pg_has_role(role, act) AS true, (member, role, act) AS true;

CREATE VIEW infoschema.schemata AS
SELECT 'warpline' AS catalog_name, nspname AS schema_name, 'warpline' AS schema_owner FROM pg_namespace;
CREATE VIEW infoschema.tables AS
SELECT 'warpline' AS table_catalog, n.nspname AS table_schema, c.relname AS table_name,
    CASE c.relkind WHEN 'r' THEN 'BASE TABLE' ELSE 'VIEW' END AS table_type, CAST(NULL AS VARCHAR) AS self_referencing_column_name,
    CAST(NULL AS VARCHAR) AS reference_generation, CAST(NULL AS VARCHAR) AS user_defined_type_catalog,
    CAST(NULL AS VARCHAR) AS user_defined_type_schema, CAST(NULL AS VARCHAR) AS user_defined_type_name,
    'NO' AS is_insertable_into, 'NO' AS is_typed, CAST(NULL AS VARCHAR) AS commit_action
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace;
CREATE VIEW infoschema.views AS
SELECT 'warpline' AS table_catalog, n.nspname AS table_schema, c.relname AS table_name, CAST(NULL AS VARCHAR) AS view_definition,
    'NONE' AS check_option, 'NO' AS is_updatable, 'NO' AS is_insertable_into
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'v';
CREATE VIEW infoschema.columns AS
SELECT 'warpline' AS table_catalog, n.nspname AS table_schema, c.relname AS table_name, a.attname AS column_name,
    CAST(a.attnum AS INTEGER) AS ordinal_position, CAST(NULL AS VARCHAR) AS column_default, 'YES' AS is_nullable,
    CASE WHEN t.typelem <> 0 THEN 'ARRAY' ELSE format_type(a.atttypid, NULL) END AS data_type,
    CAST(NULL AS INTEGER) AS character_maximum_length, CAST(NULL AS INTEGER) AS character_octet_length,
    CAST(NULL AS INTEGER) AS numeric_precision, CAST(NULL AS INTEGER) AS numeric_precision_radix,
    CAST(NULL AS INTEGER) AS numeric_scale, CAST(NULL AS INTEGER) AS datetime_precision, CAST(NULL AS VARCHAR) AS domain_name,
    'warpline' AS udt_catalog, 'pg_catalog' AS udt_schema, t.typname AS udt_name, CAST(a.attnum AS VARCHAR) AS dtd_identifier,
    'NO' AS is_identity, 'NEVER' AS is_generated, CAST(NULL AS VARCHAR) AS generation_expression, 'NO' AS is_updatable
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_type t ON t.oid = a.atttypid;
CREATE TABLE infoschema.table_constraints (constraint_catalog VARCHAR, constraint_schema VARCHAR, constraint_name VARCHAR,
    table_catalog VARCHAR, table_schema VARCHAR, table_name VARCHAR, constraint_type VARCHAR);
CREATE TABLE infoschema.key_column_usage (constraint_catalog VARCHAR, constraint_schema VARCHAR, constraint_name VARCHAR,
    table_catalog VARCHAR, table_schema VARCHAR, table_name VARCHAR, column_name VARCHAR, ordinal_position INTEGER);
CREATE TABLE infoschema.routines (specific_schema VARCHAR, specific_name VARCHAR, routine_schema VARCHAR, routine_name VARCHAR,
    routine_type VARCHAR);
