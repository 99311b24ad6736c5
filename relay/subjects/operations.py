"""The operations of the API as a table: one line each, in the order of their paths.

A line holds methods, path, and clauses; a further line that begins with ``|`` or ``;`` continues it. ``a,b`` as the
last segment stands for two paths. Clauses:

``answer``             balanced over the whole group; without it a workspace endpoint (SPEC §5)
``stored``             stored responses stand between (SPEC §5)
``harmless WHEN``      SPEC §7: ``always``, ``unless-stored``, ``if-not-stored``
``metered``            its answers say what was used
``list KIND``          a list below no parent: shows ``/data/*/id``, pages by ``after`` and ``before``
``query PLACES``       parameters; ``body`` members of a JSON request; ``form`` parts; ``both`` body and form
``shows PLACES``       of the answer: JSON, SSE ``data`` or frames
``unstored PLACES``    what is shown, and counts, where the answer itself is not stored (SPEC §5: ``store: false``)
``location KIND``      the ``Location`` field ends in an id
``secret``             an ephemeral key may stand for the client's (SPEC §13)
``first-frame``        model and ids come in the first frame of a WebSocket (SPEC §13)

PLACES are ``pointer kind`` with ``;`` between them, or ``pointer FAMILY``, or ``FAMILY``. The ids of a path stand with
the kinds in :mod:`.resources`. An id whose every use is below its parent's path is no place here: the parent pins it.
The ``client_secret`` of a ChatKit session is none either: it is no key to any path of the API.
"""

from __future__ import annotations

# Places that several operations share; families may hold families.
FAMILIES = {
    "GRADER": "/model model; /graders/model model; /graders/*/model model",
    "PROMPT": "/id prompt; /variables/*/file_id file",
    "TOOL": "/vector_store_ids/* vector_store; /tunnel_id mcp_tunnel; /container container; /container/file_ids/* file;"
    "/model model; /input_image_mask/file_id file; /environment/file_ids/* file;"
    "/environment/skills/*/skill_id skill; /environment/container_id container",
    "CITATION": "/file_id file; /container_id container",
    # The id beside an item's content binds it to nothing; that of a request for approval does.
    "ITEM": "/id item_hint; /approval_request_id item; /encrypted_content encrypted_content;"
    "/container_id container; /environment/container_id container; /results/*/file_id file; /tools/* TOOL;"
    "/content/*/file_id file; /content/*/annotations/* CITATION; /content/*/encrypted_content encrypted_content;"
    "/output/file_id file; /output/*/file_id file; /output/*/annotations/* CITATION",
    # What a response's output item shows. Its id is of use only where the response is stored.
    "OUTPUT": "/encrypted_content encrypted_content; /container_id container; /environment/container_id container;"
    "/results/*/file_id file; /content/*/annotations/* CITATION; /content/*/encrypted_content encrypted_content",
    "OUTPUT_ITEM": "/id item; OUTPUT",
    "RESPONSE": "/id response; /conversation/id conversation; /output/* OUTPUT_ITEM",
    "RESPONSE_EVENTS": "RESPONSE; /response RESPONSE; /item OUTPUT_ITEM; /annotation CITATION",
    "UNSTORED_EVENTS": "/output/* OUTPUT; /response/output/* OUTPUT; /item OUTPUT; /annotation CITATION",
    "RESPONSE_REQUEST": "/model model; /moderation/model model; /previous_response_id response; /prompt PROMPT;"
    "/conversation conversation; /conversation/id conversation; /tools/* TOOL; /input/* ITEM",
    "REALTIME": "/model model; /audio/input/transcription/model model; /audio/output/voice/id voice;"
    "/tools/*/tunnel_id mcp_tunnel; /prompt PROMPT",
    # The model of a session is what the request asks for, as a top-level one is elsewhere.
    "SESSION": "/session REALTIME; /session/model asked_model",
    "SECRET": "/value client_secret; /client_secret/value client_secret",
    "AUDIO": "/choices/*/message/audio/id chat_audio; /choices/*/delta/audio/id chat_audio",
    "STORES": "/tool_resources/file_search/vector_store_ids/* vector_store",
    "RESOURCES": "/code_interpreter/file_ids/* file; /file_search/vector_store_ids/* vector_store;"
    "/file_search/vector_stores/*/file_ids/* file",
    "MESSAGE": "/content/*/image_file/file_id file; /attachments/*/file_id file",
    "THREAD": "/messages/* MESSAGE; /tool_resources RESOURCES",
    "WRITTEN": "/content/*/image_file/file_id file; /content/*/text/annotations/*/file_path/file_id file",
    # Events show threads, runs, steps and messages at one place: what is no thread is a child and drops out.
    "RUN_EVENTS": "/id message; /thread_id thread; WRITTEN",
    "STEP": "/step_details/tool_calls/*/code_interpreter/outputs/*/image/file_id file",
    "BATCH": "/output_file_id file; /error_file_id file",
    "TUNED": "/fine_tuned_model model; /result_files/* file",
    "USAGE": "/project_ids project; /api_key_ids project_api_key; /vector_store_ids vector_store",
}

OPERATIONS = """
GET /assistants | list assistant
POST /assistants | body /model model; /tool_resources RESOURCES | shows /id assistant; STORES
GET DELETE /assistants/{assistant_id} | shows STORES
POST /assistants/{assistant_id} | body /model model; /tool_resources RESOURCES | shows STORES

POST /audio/speech | answer | harmless always | metered | body /model model; /voice/id voice
POST /audio/transcriptions,translations | answer | harmless always | metered | form /model model
GET /audio/voice_consents | list voice_consent
POST /audio/voice_consents | shows /id voice_consent
GET POST DELETE /audio/voice_consents/{consent_id}
POST /audio/voices | form /consent voice_consent | shows /id voice

GET /batches | list batch | shows /data/* BATCH
POST /batches | body /input_file_id file | shows /id batch; BATCH
GET /batches/{batch_id} | shows BATCH
POST /batches/{batch_id}/cancel | shows BATCH

GET /chat/completions | list chat_completion | query /model model | shows /data/* AUDIO
POST /chat/completions | answer | harmless unless-stored | metered
| body /model model; /moderation/model model; /audio/voice/id voice; /messages/*/audio/id chat_audio
; /messages/*/content/*/file/file_id file
| shows /id chat_completion; AUDIO | unstored AUDIO
GET POST DELETE /chat/completions/{completion_id} | shows AUDIO
GET /chat/completions/{completion_id}/messages

POST /chatkit/sessions | body /workflow/id chatkit_workflow | shows /id chatkit_session
POST /chatkit/sessions/{session_id}/cancel
GET /chatkit/threads | list chatkit_thread
GET DELETE /chatkit/threads/{thread_id}
GET /chatkit/threads/{thread_id}/items

POST /completions | answer | harmless unless-stored | metered | body /model model

GET /containers | list container
POST /containers | body /file_ids/* file; /skills/*/skill_id skill | shows /id container
GET DELETE /containers/{container_id}
GET /containers/{container_id}/files | shows /data/*/id container_file
POST /containers/{container_id}/files | both /file_id file | shows /id container_file
GET DELETE /containers/{container_id}/files/{file_id}
GET /containers/{container_id}/files/{file_id}/content

POST /content_provenance_checks | answer

POST /conversations | body /items/* ITEM | shows /id conversation
GET POST DELETE /conversations/{conversation_id}
GET /conversations/{conversation_id}/items | shows /data/* OUTPUT_ITEM
POST /conversations/{conversation_id}/items | body /items/* ITEM | shows /data/* OUTPUT_ITEM
GET DELETE /conversations/{conversation_id}/items/{item_id} | shows OUTPUT_ITEM

POST /embeddings | answer | harmless always | metered | body /model model

GET /evals | list eval
POST /evals | body /testing_criteria/*/model model | shows /id eval
GET POST DELETE /evals/{eval_id}
GET /evals/{eval_id}/runs
POST /evals/{eval_id}/runs
| body /data_source/model model; /data_source/source/model model; /data_source/source/id file
; /data_source/input_messages/template/*/content/*/file_id file; /data_source/sampling_params/tools/* TOOL
GET POST DELETE /evals/{eval_id}/runs/{run_id}
GET /evals/{eval_id}/runs/{run_id}/output_items
GET /evals/{eval_id}/runs/{run_id}/output_items/{output_item_id}

GET /files | list file
POST /files | shows /id file
GET DELETE /files/{file_id}
GET /files/{file_id}/content

POST /fine_tuning/alpha/graders/run,validate | body /grader GRADER
GET POST /fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions
DELETE /fine_tuning/checkpoints/{fine_tuned_model_checkpoint}/permissions/{permission_id}
GET /fine_tuning/jobs | list ft_job | shows /data/* TUNED
POST /fine_tuning/jobs | shows /id ft_job; TUNED
| body /model model; /training_file file; /validation_file file; /method/reinforcement/grader GRADER
GET /fine_tuning/jobs/{fine_tuning_job_id} | shows TUNED
POST /fine_tuning/jobs/{fine_tuning_job_id}/cancel,pause,resume | shows TUNED
GET /fine_tuning/jobs/{fine_tuning_job_id}/checkpoints | shows /data/*/fine_tuned_model_checkpoint model
GET /fine_tuning/jobs/{fine_tuning_job_id}/events

POST /images/edits | answer | harmless always | metered
| body /model model; /images/*/file_id file; /mask/file_id file | form /model model
POST /images/generations | answer | harmless always | metered | body /model model
POST /images/variations | answer | harmless always | metered | form /model model

GET /models | list model
GET DELETE /models/{model}

POST /moderations | answer | harmless always | body /model model

GET /realtime | answer | secret | query /model model; /call_id realtime_call
POST /realtime/calls | answer | secret | query /model model | form SESSION | location realtime_call
POST /realtime/calls/{call_id}/accept | answer | secret | body REALTIME
POST /realtime/calls/{call_id}/hangup,refer,reject | answer | secret
POST /realtime/client_secrets | answer | secret | body SESSION | shows SECRET
POST /realtime/sessions | answer | secret | shows SECRET
| body /model model; /voice/id voice; /input_audio_transcription/model model; /prompt PROMPT
POST /realtime/transcription_sessions | answer | secret | shows SECRET
| body /input_audio_transcription/model asked_model
POST /realtime/translations/client_secrets | answer | secret | body SESSION | shows SECRET

GET /responses | answer | stored | metered | first-frame
| body RESPONSE_REQUEST | shows RESPONSE_EVENTS | unstored UNSTORED_EVENTS
POST /responses | answer | stored | harmless if-not-stored | metered
| body RESPONSE_REQUEST | shows RESPONSE_EVENTS | unstored UNSTORED_EVENTS
POST /responses/compact | answer | stored | harmless if-not-stored | metered
| body RESPONSE_REQUEST | shows RESPONSE
POST /responses/input_tokens | answer | harmless if-not-stored | body RESPONSE_REQUEST
GET /responses/{response_id} | shows RESPONSE_EVENTS
DELETE /responses/{response_id}
POST /responses/{response_id}/cancel | shows RESPONSE
GET /responses/{response_id}/input_items | shows /data/* OUTPUT_ITEM

GET /skills | list skill
POST /skills | shows /id skill
GET POST DELETE /skills/{skill_id}
GET /skills/{skill_id}/content
GET POST /skills/{skill_id}/versions
GET DELETE /skills/{skill_id}/versions/{version}
GET /skills/{skill_id}/versions/{version}/content

POST /threads | body THREAD | shows /id thread; STORES
POST /threads/runs | shows RUN_EVENTS
| body /assistant_id assistant; /model model; /thread THREAD; /tool_resources RESOURCES
GET DELETE /threads/{thread_id} | shows STORES
POST /threads/{thread_id} | body /tool_resources RESOURCES | shows STORES
GET /threads/{thread_id}/messages | shows /data/* WRITTEN
POST /threads/{thread_id}/messages | body MESSAGE | shows WRITTEN
GET POST DELETE /threads/{thread_id}/messages/{message_id} | shows WRITTEN
GET /threads/{thread_id}/runs
POST /threads/{thread_id}/runs | shows WRITTEN
| body /assistant_id assistant; /model model; /additional_messages/* MESSAGE
GET POST /threads/{thread_id}/runs/{run_id}
POST /threads/{thread_id}/runs/{run_id}/cancel
GET /threads/{thread_id}/runs/{run_id}/steps | shows /data/* STEP
GET /threads/{thread_id}/runs/{run_id}/steps/{step_id} | shows STEP
POST /threads/{thread_id}/runs/{run_id}/submit_tool_outputs | shows WRITTEN

POST /uploads | shows /id upload
POST /uploads/{upload_id}/cancel
POST /uploads/{upload_id}/complete | shows /file/id file
POST /uploads/{upload_id}/parts

GET /vector_stores | list vector_store
POST /vector_stores | body /file_ids/* file | shows /id vector_store
GET POST DELETE /vector_stores/{vector_store_id}
POST /vector_stores/{vector_store_id}/file_batches | body /file_ids/* file; /files/*/file_id file
GET /vector_stores/{vector_store_id}/file_batches/{batch_id}
POST /vector_stores/{vector_store_id}/file_batches/{batch_id}/cancel
GET /vector_stores/{vector_store_id}/file_batches/{batch_id}/files | shows /data/*/id file
GET /vector_stores/{vector_store_id}/files | shows /data/*/id file
POST /vector_stores/{vector_store_id}/files | body /file_id file | shows /id file
GET POST DELETE /vector_stores/{vector_store_id}/files/{file_id}
GET /vector_stores/{vector_store_id}/files/{file_id}/content
POST /vector_stores/{vector_store_id}/search | shows /data/*/file_id file

GET /videos | list video
POST /videos | both /model model; /input_reference/file_id file | shows /id video
POST /videos/characters | shows /id video_character
GET /videos/characters/{character_id}
POST /videos/edits,extensions | both /video/id video | shows /id video
GET DELETE /videos/{video_id}
GET /videos/{video_id}/content
POST /videos/{video_id}/remix | shows /id video
"""

# Administration, denied unless the file opens it (SPEC §4). Below a project, a group or a person only the first id of a
# path counts, and no name in a body does: an organization may be several scopes, and its ids live in all of them.
ADMINISTRATION = """
GET /organization/admin_api_keys | list admin_key
POST /organization/admin_api_keys | shows /id admin_key
GET DELETE /organization/admin_api_keys/{key_id}
GET /organization/audit_logs | query /project_ids project
GET /organization/certificates | list certificate
POST /organization/certificates | shows /id certificate
POST /organization/certificates/activate,deactivate | body /certificate_ids/* certificate
GET POST DELETE /organization/certificates/{certificate_id}
GET /organization/costs | query USAGE
GET POST /organization/data_retention
GET /organization/groups | list group
POST /organization/groups | shows /id group
GET POST DELETE /organization/groups/{group_id}
GET POST /organization/groups/{group_id}/roles,users
GET DELETE /organization/groups/{group_id}/roles/{role_id}
GET DELETE /organization/groups/{group_id}/users/{user_id}
GET /organization/invites | list invite
POST /organization/invites | shows /id invite
GET DELETE /organization/invites/{invite_id}
GET /organization/projects | list project
POST /organization/projects | shows /id project
GET POST /organization/projects/{project_id}
GET /organization/projects/{project_id}/api_keys | shows /data/*/id project_api_key
GET DELETE /organization/projects/{project_id}/api_keys/{api_key_id}
POST /organization/projects/{project_id}/archive
GET /organization/projects/{project_id}/certificates
POST /organization/projects/{project_id}/certificates/activate,deactivate
GET POST /organization/projects/{project_id}/data_retention,hosted_tool_permissions
GET POST /organization/projects/{project_id}/groups,users
GET DELETE /organization/projects/{project_id}/groups/{group_id}
GET POST DELETE /organization/projects/{project_id}/model_permissions,spend_limit
GET /organization/projects/{project_id}/rate_limits
POST /organization/projects/{project_id}/rate_limits/{rate_limit_id}
GET /organization/projects/{project_id}/service_accounts
POST /organization/projects/{project_id}/service_accounts | shows /api_key/id project_api_key
GET POST DELETE /organization/projects/{project_id}/service_accounts/{service_account_id}
POST /organization/projects/{project_id}/service_accounts/{service_account_id}/api_keys | shows /id project_api_key
GET POST /organization/projects/{project_id}/spend_alerts
GET POST DELETE /organization/projects/{project_id}/spend_alerts/{alert_id}
GET POST DELETE /organization/projects/{project_id}/users/{user_id}
GET /organization/roles | list role
POST /organization/roles | shows /id role
GET POST DELETE /organization/roles/{role_id}
GET /organization/spend_alerts | list spend_alert
POST /organization/spend_alerts | shows /id spend_alert
GET POST DELETE /organization/spend_alerts/{alert_id}
GET POST DELETE /organization/spend_limit
GET /organization/usage/audio_speeches,audio_transcriptions,completions,embeddings,images,moderations | query USAGE
GET /organization/usage/code_interpreter_sessions,file_search_calls,vector_stores,web_search_calls | query USAGE
GET /organization/users | list user
GET POST DELETE /organization/users/{user_id}
GET POST /organization/users/{user_id}/roles
GET DELETE /organization/users/{user_id}/roles/{role_id}
GET POST /projects/{project_id}/groups/{group_id}/roles
GET DELETE /projects/{project_id}/groups/{group_id}/roles/{role_id}
GET POST /projects/{project_id}/roles
GET POST DELETE /projects/{project_id}/roles/{role_id}
GET POST /projects/{project_id}/users/{user_id}/roles
GET DELETE /projects/{project_id}/users/{user_id}/roles/{role_id}
"""
