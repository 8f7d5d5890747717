//! What outlives the process: jobs and pictures in SQLite, the pictures themselves as files.
//!
//! A job is acknowledged when its row is committed. A picture's file is written whole before its row is; a file without
//! a row is removed at the next start. Schema versions are numbered by `user_version`, and each is one step from the
//! one before.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use impasto::files;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::ServeError;
use crate::error::JobError;
use crate::records::{JobRecord, Picture, Status};

/// The steps from an empty file to the current schema. Only ever appended to.
const SCHEMA: &[&str] = &["
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        client TEXT NOT NULL,
        model TEXT NOT NULL,
        task TEXT NOT NULL,
        attached INTEGER NOT NULL,
        status TEXT NOT NULL,
        created REAL NOT NULL,
        started REAL,
        finished REAL,
        error TEXT
    );
    CREATE INDEX jobs_by_status ON jobs (status);
    CREATE TABLE pictures (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        job TEXT NOT NULL,
        place INTEGER NOT NULL,
        model TEXT NOT NULL,
        kind TEXT NOT NULL,
        prompt TEXT NOT NULL,
        seed TEXT NOT NULL,
        width INTEGER NOT NULL,
        height INTEGER NOT NULL,
        parameters TEXT NOT NULL,
        log_likelihood REAL,
        clip_score REAL,
        tokens INTEGER NOT NULL,
        favourite INTEGER NOT NULL DEFAULT 0,
        created REAL NOT NULL,
        UNIQUE (job, place)
    );
",
    // Requests say by a word what is done with a long prompt, no longer whether it is cut.
    "
    UPDATE jobs SET task = json_remove(
        json_set(task, '$.request.long', CASE WHEN json_extract(task, '$.request.truncate') THEN 'truncate' ELSE 'refuse' END),
        '$.request.truncate'
    ) WHERE json_type(task, '$.request.truncate') IS NOT NULL;
"];

/// The data folder.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    connection: Mutex<Connection>,
    _lock: files::FolderLock,
}

/// Which pictures are listed, the newest first.
#[derive(Clone, Debug, Default)]
pub struct PictureFilter {
    /// Favourites alone.
    pub favourites: bool,
    /// Of this job alone.
    pub job: Option<String>,
    /// Whose prompt has this text.
    pub text: Option<String>,
    /// Those that come after this one.
    pub after: Option<String>,
    /// This many.
    pub limit: usize,
}

impl Store {
    /// Opens or makes a data folder.
    ///
    /// # Errors
    /// Where another server uses it, or a newer version wrote it.
    pub fn open(folder: &Path) -> Result<Self, ServeError> {
        for part in ["", "pictures", "inputs"] {
            let path = folder.join(part);
            std::fs::create_dir_all(&path).map_err(impasto::Error::io("create", &path))?;
        }
        let lock = files::lock(folder)?.ok_or_else(|| {
            impasto::Error::bad_file(folder, "is in use by another server; choose another --data")
        })?;
        let path = folder.join("impasto.sqlite");
        let mut connection = Connection::open(&path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // Prompts that were deleted are overwritten, not only forgotten.
        connection.pragma_update(None, "secure_delete", "ON")?;
        // An acknowledged job is on the disk.
        connection.pragma_update(None, "synchronous", "FULL")?;
        let version: usize = connection.pragma_query_value(None, "user_version", |row| {
            row.get::<_, i64>(0).map(|version| version as usize)
        })?;
        if version > SCHEMA.len() {
            let reason = format!(
                "has schema {version}, this program knows {}; use the version that wrote it",
                SCHEMA.len()
            );
            return Err(impasto::Error::bad_file(path, reason).into());
        }
        let transaction = connection.transaction()?;
        for step in &SCHEMA[version..] {
            transaction.execute_batch(step)?;
        }
        transaction.pragma_update(None, "user_version", SCHEMA.len() as i64)?;
        transaction.commit()?;
        let store = Store {
            folder: folder.to_path_buf(),
            connection: Mutex::new(connection),
            _lock: lock,
        };
        store.recover()?;
        Ok(store)
    }

    /// After a process that ended anyhow: what ran is queued again, what a connection waited for is over, and files
    /// without a row go.
    fn recover(&self) -> Result<(), ServeError> {
        {
            let connection = self.lock();
            let gone = serde_json::to_string(&JobError {
                code: "cancelled".into(),
                message: "The server stopped before it was done.".into(),
                param: None,
            })
            .unwrap_or_default();
            connection.execute(
                "UPDATE jobs SET status = 'cancelled', finished = ?1, error = ?2
                 WHERE attached = 1 AND status IN ('queued', 'running')",
                params![crate::log::now(), gone],
            )?;
            connection.execute(
                "UPDATE jobs SET status = 'queued', started = NULL WHERE status = 'running'",
                [],
            )?;
        }
        let mut known: HashSet<PathBuf> = HashSet::new();
        {
            let connection = self.lock();
            let mut statement = connection.prepare("SELECT id FROM pictures")?;
            for id in statement.query_map([], |row| row.get::<_, String>(0))? {
                known.insert(self.picture_path(&id?));
            }
            let mut statement = connection.prepare("SELECT id FROM jobs")?;
            for id in statement.query_map([], |row| row.get::<_, String>(0))? {
                let id = id?;
                known.extend(["image", "mask"].map(|name| self.input_path(&id, name)));
            }
        }
        for part in ["pictures", "inputs"] {
            let folder = self.folder.join(part);
            files::clear_stale(&folder);
            let entries =
                std::fs::read_dir(&folder).map_err(impasto::Error::io("read", &folder))?;
            for path in entries.flatten().map(|entry| entry.path()) {
                let ours = path
                    .extension()
                    .is_some_and(|ending| ending == "png" || ending == "input");
                if ours && !known.contains(&path) {
                    // Whoever can't remove it now does so at the next start.
                    let _ = std::fs::remove_file(&path);
                }
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // Each change is one statement or one transaction: a panic between them leaves nothing half done.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder of the pictures.
    pub fn pictures_folder(&self) -> PathBuf {
        self.folder.join("pictures")
    }

    /// The folder of the index of the pictures.
    pub fn index_folder(&self) -> PathBuf {
        self.pictures_folder().join(impasto::search::FOLDER)
    }

    /// A picture's file. `id` is one of ours: those of clients are looked up in the table first.
    pub fn picture_path(&self, id: &str) -> PathBuf {
        self.folder.join("pictures").join(format!("{id}.png"))
    }

    /// A file that a job works on.
    pub fn input_path(&self, job: &str, name: &str) -> PathBuf {
        self.folder
            .join("inputs")
            .join(format!("{job}-{name}.input"))
    }

    /// Keeps a new job, with the pictures that it works on.
    pub fn add_job(&self, job: &JobRecord, inputs: &[(&str, &[u8])]) -> Result<(), ServeError> {
        for (name, bytes) in inputs {
            files::write_atomic(self.input_path(&job.id, name), bytes)?;
        }
        self.lock().execute(
            "INSERT INTO jobs (id, client, model, task, attached, status, created)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                job.id,
                job.client,
                job.model,
                serde_json::to_string(&job.task)?,
                job.attached,
                job.status.as_str(),
                job.created
            ],
        )?;
        Ok(())
    }

    /// A model begins with a job.
    pub fn start_job(&self, id: &str, now: f64) -> Result<(), ServeError> {
        self.lock().execute(
            "UPDATE jobs SET status = 'running', started = ?2 WHERE id = ?1",
            params![id, now],
        )?;
        Ok(())
    }

    /// A job goes back into the queue.
    pub fn requeue_job(&self, id: &str) -> Result<(), ServeError> {
        self.lock().execute(
            "UPDATE jobs SET status = 'queued', started = NULL, finished = NULL, error = NULL WHERE id = ?1",
            params![id],
        )?;
        Ok(())
    }

    /// A job ends.
    pub fn end_job(
        &self,
        id: &str,
        status: Status,
        error: Option<&JobError>,
        now: f64,
    ) -> Result<(), ServeError> {
        let error = error.map(serde_json::to_string).transpose()?;
        self.lock().execute(
            "UPDATE jobs SET status = ?2, error = ?3, finished = ?4 WHERE id = ?1",
            params![id, status.as_str(), error, now],
        )?;
        Ok(())
    }

    /// One job.
    pub fn job(&self, id: &str) -> Result<Option<JobRecord>, ServeError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached("SELECT * FROM jobs WHERE id = ?1")?;
        Ok(statement.query_row([id], job_of).optional()?)
    }

    /// Jobs, the newest first.
    pub fn jobs(&self, after: Option<&str>, limit: usize) -> Result<Vec<JobRecord>, ServeError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT * FROM jobs WHERE ?1 IS NULL OR number < (SELECT number FROM jobs WHERE id = ?1)
             ORDER BY number DESC LIMIT ?2",
        )?;
        let jobs = statement.query_map(params![after, limit as i64], job_of)?;
        Ok(jobs.collect::<Result<_, _>>()?)
    }

    /// Jobs that wait, the oldest first.
    pub fn queued_jobs(&self) -> Result<Vec<JobRecord>, ServeError> {
        let connection = self.lock();
        let mut statement =
            connection.prepare("SELECT * FROM jobs WHERE status = 'queued' ORDER BY number")?;
        let jobs = statement.query_map([], job_of)?;
        Ok(jobs.collect::<Result<_, _>>()?)
    }

    /// Forgets a job that ended, with what it worked on; its pictures stay. Returns whether there was one.
    pub fn remove_job(&self, id: &str) -> Result<bool, ServeError> {
        let removed = self.lock().execute(
            "DELETE FROM jobs WHERE id = ?1 AND status NOT IN ('queued', 'running')",
            [id],
        )?;
        if removed > 0 {
            self.remove_inputs(id);
        }
        Ok(removed > 0)
    }

    /// Removes what a job worked on. What stays goes with the job's row, at a start.
    pub fn remove_inputs(&self, id: &str) {
        for name in ["image", "mask"] {
            let _ = std::fs::remove_file(self.input_path(id, name));
        }
    }

    /// Writes a picture's file, then lists it. Where a job that runs again makes a picture that is listed already, the
    /// listed one is returned.
    pub fn add_picture(&self, picture: Picture, png: &[u8]) -> Result<Picture, ServeError> {
        let listed = |connection: &Connection| {
            connection
                .query_row(
                    "SELECT * FROM pictures WHERE job = ?1 AND place = ?2",
                    params![picture.job, picture.place as i64],
                    picture_of,
                )
                .optional()
        };
        if let Some(listed) = listed(&self.lock())? {
            return Ok(listed);
        }
        files::write_atomic(self.picture_path(&picture.id), png)?;
        self.lock().execute(
            "INSERT INTO pictures (id, job, place, model, kind, prompt, seed, width, height, parameters,
                 log_likelihood, clip_score, tokens, favourite, created)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
            params![
                picture.id,
                picture.job,
                picture.place as i64,
                picture.model,
                picture.kind,
                picture.prompt,
                picture.seed,
                picture.width as i64,
                picture.height as i64,
                picture.parameters,
                picture.log_likelihood,
                picture.clip_score,
                picture.tokens as i64,
                picture.favourite,
                picture.created
            ],
        )?;
        Ok(picture)
    }

    /// One picture.
    pub fn picture(&self, id: &str) -> Result<Option<Picture>, ServeError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached("SELECT * FROM pictures WHERE id = ?1")?;
        Ok(statement.query_row([id], picture_of).optional()?)
    }

    /// Pictures, the newest first.
    pub fn pictures(&self, filter: &PictureFilter) -> Result<Vec<Picture>, ServeError> {
        let connection = self.lock();
        let mut statement = connection.prepare_cached(
            "SELECT * FROM pictures
             WHERE (?1 = 0 OR favourite = 1) AND (?2 IS NULL OR job = ?2)
               AND (?3 IS NULL OR instr(lower(prompt), lower(?3)) > 0)
               AND (?4 IS NULL OR number < (SELECT number FROM pictures WHERE id = ?4))
             ORDER BY number DESC LIMIT ?5",
        )?;
        let pictures = statement.query_map(
            params![
                filter.favourites,
                filter.job,
                filter.text,
                filter.after,
                filter.limit as i64
            ],
            picture_of,
        )?;
        Ok(pictures.collect::<Result<_, _>>()?)
    }

    /// How many pictures there are, and how many of them are favourites.
    pub fn count_pictures(&self) -> Result<(usize, usize), ServeError> {
        Ok(self.lock().query_row(
            "SELECT count(*), coalesce(sum(favourite), 0) FROM pictures",
            [],
            |row| {
                Ok((
                    row.get::<_, i64>(0)? as usize,
                    row.get::<_, i64>(1)? as usize,
                ))
            },
        )?)
    }

    /// Marks a picture, or takes the mark away. Returns whether there is such a picture.
    pub fn set_favourite(&self, id: &str, favourite: bool) -> Result<bool, ServeError> {
        let changed = self.lock().execute(
            "UPDATE pictures SET favourite = ?2 WHERE id = ?1",
            params![id, favourite],
        )?;
        Ok(changed > 0)
    }

    /// Removes a picture: from the list, then its file. Returns whether there was one.
    pub fn remove_picture(&self, id: &str) -> Result<bool, ServeError> {
        let removed = self
            .lock()
            .execute("DELETE FROM pictures WHERE id = ?1", [id])?;
        if removed > 0 {
            // A file that stays goes at the next start.
            let _ = std::fs::remove_file(self.picture_path(id));
        }
        Ok(removed > 0)
    }
}

fn job_of(row: &Row<'_>) -> rusqlite::Result<JobRecord> {
    let bad = |e: serde_json::Error| rusqlite::Error::ToSqlConversionFailure(e.into());
    let task: String = row.get("task")?;
    let error: Option<String> = row.get("error")?;
    let status: String = row.get("status")?;
    Ok(JobRecord {
        id: row.get("id")?,
        client: row.get("client")?,
        model: row.get("model")?,
        task: serde_json::from_str(&task).map_err(bad)?,
        attached: row.get("attached")?,
        status: serde_json::from_value(status.into()).map_err(bad)?,
        created: row.get("created")?,
        started: row.get("started")?,
        finished: row.get("finished")?,
        error: error
            .map(|error| serde_json::from_str(&error).map_err(bad))
            .transpose()?,
    })
}

fn picture_of(row: &Row<'_>) -> rusqlite::Result<Picture> {
    let size = |name| row.get::<_, i64>(name).map(|size| size as usize);
    Ok(Picture {
        id: row.get("id")?,
        job: row.get("job")?,
        place: size("place")?,
        model: row.get("model")?,
        kind: row.get("kind")?,
        prompt: row.get("prompt")?,
        seed: row.get("seed")?,
        width: size("width")?,
        height: size("height")?,
        parameters: row.get("parameters")?,
        log_likelihood: row.get("log_likelihood")?,
        clip_score: row.get("clip_score")?,
        tokens: size("tokens")?,
        favourite: row.get("favourite")?,
        created: row.get("created")?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::records::Task;

    fn picture(job: &str, place: usize) -> Picture {
        Picture {
            id: crate::random_id(),
            job: job.into(),
            place,
            model: "impasto-styles".into(),
            kind: "generate".into(),
            prompt: "a Red cat".into(),
            seed: u64::MAX.to_string(),
            width: 64,
            height: 64,
            parameters: String::new(),
            log_likelihood: Some(-1.5),
            clip_score: None,
            tokens: 256,
            favourite: false,
            created: 1.0,
        }
    }

    fn job(id: &str, attached: bool) -> JobRecord {
        JobRecord {
            id: id.into(),
            client: "ada".into(),
            model: "impasto-styles".into(),
            task: Task::Generate {
                request: impasto::Generate::new("a cat", 7),
            },
            attached,
            status: Status::Queued,
            created: 1.0,
            started: None,
            finished: None,
            error: None,
        }
    }

    #[test]
    fn what_ran_is_queued_again_and_nothing_is_listed_twice() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.add_job(&job("a", false), &[("image", b"x")]).unwrap();
        store.add_job(&job("b", true), &[]).unwrap();
        store.start_job("a", 2.0).unwrap();
        let listed = store.add_picture(picture("a", 0), b"png").unwrap();
        let again = store.add_picture(picture("a", 0), b"png").unwrap();
        assert_eq!(again, listed);
        // A file that was written and not listed, as a kill between the two leaves it.
        let orphan = store.picture_path("0123");
        std::fs::write(&orphan, b"png").unwrap();
        assert!(Store::open(folder.path()).is_err(), "two servers at once");
        drop(store);
        let store = Store::open(folder.path()).unwrap();
        let queued = store.queued_jobs().unwrap();
        assert_eq!(queued.len(), 1);
        assert_eq!((queued[0].id.as_str(), queued[0].started), ("a", None));
        assert!(store.input_path("a", "image").exists());
        let over = store.job("b").unwrap().unwrap();
        assert_eq!(
            (over.status, over.error.unwrap().code.as_str()),
            (Status::Cancelled, "cancelled")
        );
        assert!(!orphan.exists() && store.picture_path(&listed.id).exists());
        assert_eq!(store.count_pictures().unwrap(), (1, 0));
    }

    #[test]
    fn pictures_are_filtered_and_paged() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let pictures: Vec<Picture> = (0..3)
            .map(|place| store.add_picture(picture("a", place), b"png").unwrap())
            .collect();
        assert!(store.set_favourite(&pictures[1].id, true).unwrap());
        let places = |filter: PictureFilter| -> Vec<usize> {
            let limit = filter.limit.max(2);
            let found = store.pictures(&PictureFilter { limit, ..filter }).unwrap();
            found.iter().map(|picture| picture.place).collect()
        };
        let all = PictureFilter::default;
        assert_eq!(places(all()), [2, 1]);
        assert_eq!(
            places(PictureFilter {
                after: Some(pictures[1].id.clone()),
                ..all()
            }),
            [0]
        );
        assert_eq!(
            places(PictureFilter {
                favourites: true,
                ..all()
            }),
            [1]
        );
        assert_eq!(
            places(PictureFilter {
                text: Some("RED".into()),
                ..all()
            }),
            [2, 1]
        );
        assert!(
            places(PictureFilter {
                text: Some("%".into()),
                ..all()
            })
            .is_empty()
        );
        assert!(store.remove_picture(&pictures[2].id).unwrap());
        assert!(!store.remove_picture(&pictures[2].id).unwrap());
        assert_eq!(places(all()), [1, 0]);
    }

    /// Jobs as the first schema's program wrote them.
    #[test]
    fn jobs_of_the_first_schema_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let connection = Connection::open(folder.path().join("impasto.sqlite")).unwrap();
        connection.execute_batch(SCHEMA[0]).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        for (id, cut) in [("a", "true"), ("b", "false")] {
            let task = format!(
                r#"{{"kind":"generate","request":{{"prompt":"红色 \"cat\"","n":1,"seed":18446744073709551615,"sampling":{{}},"truncate":{cut}}}}}"#
            );
            let values = params![id, "ada", "impasto-styles", task, false, "queued", 1.0];
            let insert = "INSERT INTO jobs (id, client, model, task, attached, status, created) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
            connection.execute(insert, values).unwrap();
        }
        drop(connection);
        let store = Store::open(folder.path()).unwrap();
        let long = |id: &str| match store.job(id).unwrap().unwrap().task {
            Task::Generate { request } => {
                let prompt = "红色 \"cat\"";
                assert_eq!((request.prompt.as_str(), request.seed), (prompt, u64::MAX));
                request.long
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(long("a"), impasto::text::clip::LongCaption::Truncate);
        assert_eq!(long("b"), impasto::text::clip::LongCaption::Refuse);
    }

    #[test]
    fn a_newer_schema_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        drop(Store::open(folder.path()).unwrap());
        let connection = Connection::open(folder.path().join("impasto.sqlite")).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        drop(connection);
        let error = Store::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("schema 99"), "{error}");
    }
}
